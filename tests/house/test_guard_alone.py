"""An EDP installs the guard extra and nothing else: `ccs guard` must run on that.

The test plays such an installation: a process in which every module of every distribution that the extra does not
bring is not to be found, nor is any of the admin application's.
"""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

BEFORE = """
import importlib.abc, sys
ABSENT = set({absent!r})
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top, _, rest = name.partition(".")
        if top in ABSENT or (top == "admin" and rest and rest.split(".")[0] != "cli"):
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)
sys.meta_path.insert(0, Absent())
"""


def key_of(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def brought() -> set[str]:
    """The distributions that `pip install ccs[guard]` brings here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {"ccs", "pip"}
    for line in project["dependencies"] + project["optional-dependencies"]["guard"]:
        follow(Requirement(line), found)
    return found


def follow(wanted: Requirement, found: set[str]) -> None:
    key = key_of(wanted.name)
    if key in found and not wanted.extras:
        return
    found.add(key)
    for line in metadata.distribution(wanted.name).requires or ():
        inner = Requirement(line)
        if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            follow(inner, found)


def absent() -> list[str]:
    """The modules of all other distributions."""
    allowed = brought()
    shipped = metadata.packages_distributions()
    return sorted(top for top, owners in shipped.items() if not {key_of(owner) for owner in owners} & allowed)


def run_alone(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEFORE.format(absent=absent()) + code],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def ccs(*words: str) -> subprocess.CompletedProcess[str]:
    return run_alone(f"from admin.cli import run\nsys.exit(run({list(words)!r}))")


def modules_of_the_guard() -> Iterator[str]:
    for path in sorted((ROOT / "engine/guard").glob("*.py")):
        yield f"engine.guard.{path.stem}".removesuffix(".__init__")
    yield "admin.cli.guard"


def test_what_is_played_is_an_installation_without_the_rest() -> None:
    missing = set(absent())
    assert {"sqlalchemy", "quart", "hypercorn", "redis", "lmdb", "alembic", "hiredis", "pytest", "jwt"} <= missing
    assert not {"trio", "msgspec", "httpx2", "cryptography", "engine", "admin", "anyio"} & missing
    done = run_alone("import lmdb")
    assert (done.returncode, "lmdb is not installed" in done.stderr) == (1, True)
    assert run_alone("import admin.config").returncode == 1


def test_every_module_of_the_guard_loads() -> None:
    done = run_alone(f"import importlib\nfor name in {list(modules_of_the_guard())!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [("guard", "--help"), ("guard", "status", "--help"), ("--help",)])
def test_its_commands_are_there(words: tuple[str, ...]) -> None:
    done = ccs(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "guard" in done.stdout


def test_its_settings_are_checked_and_said_to_be_wrong_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "guard.toml"
    file.write_text((ROOT / "configs/guard.toml").read_text())
    for words in (("guard", "--config", str(file)), ("check-config", str(file))):
        done = ccs(*words)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert done.stderr.startswith("ccs: ")
