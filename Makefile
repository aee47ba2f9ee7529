# The four front doors: up, test, check, bench. Each sets up what it needs in .venv, without root.
.DELETE_ON_ERROR:
.PHONY: up test check bench bench-compare fuzz simulate chaos lock clean
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

up: .venv/runtime
	@$(BIN)/ccs up

test: .venv/development
	@$(BIN)/python -m pytest $(TESTS)

check: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/development
	@$(BIN)/python -m bench

bench-compare: .venv/development
	@$(BIN)/python -m bench.revisions "$(BASE)"

fuzz: SECONDS := 600
fuzz: .venv/development
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

chaos: SECONDS := 300
chaos: .venv/development
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) \
		$(if $(POSTGRES),--postgres) $(if $(REPORT),--report $(REPORT)) \
		$(if $(PROFILE),--profile $(PROFILE)) $(if $(PACE),--circuit-pace $(PACE)) $(if $(ANSWERED),--answered $(ANSWERED))

simulate: .venv/development
	@$(BIN)/python -m tests.world.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) --mistake "$(MISTAKE)" $(SIMULATE)
SEEDS := 500
SEED :=
MISTAKE :=
SIMULATE :=

lock: .venv/development
	$(BIN)/uv pip compile $(LOCK) --extra sandbox --extra guard --extra build -o requirements.lock pyproject.toml
	$(BIN)/uv pip compile $(LOCK) --extra test --extra lint --extra bench --extra build -c requirements.lock \
		-o requirements-dev.lock pyproject.toml
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links

clean:
	rm -rf .venv var build *.egg-info

.venv/runtime: requirements.lock pyproject.toml | .venv/bin/python
	@echo "Installing what the service needs (hash-checked) ..."
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/development: requirements-dev.lock .venv/runtime
	@echo "Installing what tests, checks and benches need (hash-checked) ..."
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

.venv/bin/python:
	@echo "Creating .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@$(PYTHON) -m venv .venv
