"""The tree keeps its shape: names that say something, no traces of a machine, every ignore with its reason."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = {
    "engine", "admin", "loadtests", "bench", "configs", "tests", "docs", "pyproject.toml", "README.md", "Makefile",
    "requirements.lock", "requirements-dev.lock",
}  # fmt: skip
MADE = {"var", "build", "__pycache__"}
SKIPPED = {
    ".git",
    ".venv",
    "var",
    "build",
    "node_modules",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
}


def texts(*suffixes: str) -> list[Path]:
    return [
        path
        for path in sorted(ROOT.rglob("*"))
        if path.is_file() and path.suffix in suffixes and not SKIPPED & set(path.relative_to(ROOT).parts)
    ]


def test_nothing_stands_at_the_top_that_has_no_place_there() -> None:
    there = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and not p.name.endswith(".egg-info")}
    assert there - MADE <= TOP


def test_names_say_something() -> None:
    empty = re.compile(r"(^|/)(utils?|helpers?|common|misc|manager|stuff)(\.py|/)")
    assert [p for p in texts(".py") if empty.search(p.relative_to(ROOT).as_posix())] == []


def test_every_ignore_carries_a_reason() -> None:
    bare = re.compile(
        r"#\s*(noqa(?!: [A-Z0-9, ]+ - )|type: ignore(?!\[[a-z-]+(, ?[a-z-]+)*\]  ?# )(?!\[[a-z-]+(, ?[a-z-]+)*\] - ))"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts(".py")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]
    assert found == []


def test_nothing_is_left_for_later_in_silence() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [p for p in texts(".py", ".md", ".toml") if p != Path(__file__) and mark.search(p.read_text())]
    assert found == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_pin_with_hashes_and_name_no_host(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pins) > 20
    assert all("==" in line for line in pins)
    assert text.count("--hash=sha256:") >= len(pins)


def test_both_locks_pin_the_same_versions() -> None:
    def versions(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))

    run, dev = versions("requirements.lock"), versions("requirements-dev.lock")
    assert {name: dev.get(name) for name in run} == run


def test_the_guard_extra_brings_no_admin_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    guard = " ".join(project["dependencies"] + project["optional-dependencies"]["guard"])
    assert not re.search(r"quart|hypercorn|sqlalchemy|alembic|lmdb|redis", guard)
