"""The documents keep up with the code: every setting and metric described, every link live, every command real."""

import importlib
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from admin.cli.state_folder import SandboxConfig
from admin.config import AdminConfig
from engine.clock import UnixTime
from engine.config import NodeConfig
from engine.guard.config import GuardConfig
from engine.pusher.config import PusherConfig

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def settings(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        inner = structs_in(hints[field.name])
        if inner:
            yield from settings(inner[0], f"{prefix}{field.encode_name}.")
        else:
            yield prefix + field.encode_name


def structs_in(hint: object) -> list[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is not None:
        return [found for part in typing.get_args(hint) for found in structs_in(part)]
    return []


@pytest.mark.parametrize(
    ("struct", "heading"),
    [
        (NodeConfig, "## A node"),
        (GuardConfig, "## A guard"),
        (PusherConfig, "## A pusher"),
        (AdminConfig, "## The admin"),
        (SandboxConfig, "## The sandbox"),
    ],
)
def test_every_setting_is_described_and_no_other(struct: type[msgspec.Struct], heading: str) -> None:
    page = (ROOT / "docs/settings.md").read_text()
    section = page[page.index(heading) :].split("\n## ")[0]
    described = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert sorted(described) == sorted(settings(struct))


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_and_files_named_in_code_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in re.findall(r"`([^`\n]+)`", page.read_text()):
        for target in re.findall(r"\bmake ([a-z-]+)", code):
            assert target in targets
        if re.fullmatch(r"(engine|admin|tests|bench|configs|docs)/[\w./-]+", code):
            assert (ROOT / code).exists(), f"{page.name} names {code}"


def test_ccs_commands_named_in_documents_exist() -> None:
    from admin.cli import app

    known = {name for name in app if not name.startswith("-")}
    for page in DOCS:
        for command in re.findall(r"\bccs ([a-z][a-z-]+)", "\n".join(re.findall(r"`([^`\n]+)`", page.read_text()))):
            assert command in known, f"{page.name} names ccs {command}"


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(p.name[:4]) for p in sorted((ROOT / "docs/decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_no_document_carries_a_path_of_a_machine() -> None:
    home = re.compile(r"/(home|root|work|Users)/")
    assert [p for p in DOCS if home.search(p.read_text())] == []


@pytest.mark.parametrize(
    ("module", "heading"),
    [
        ("engine.telemetry.metrics", "## A node"),
        ("engine.telemetry.guard_metrics", "## A guard"),
        ("engine.telemetry.pusher_metrics", "## The pusher"),
        ("admin.metrics", "## The admin"),
    ],
)
def test_every_metric_is_described_and_no_other(module: str, heading: str) -> None:
    metrics = importlib.import_module(module)
    declared = {m._name: set(m._labelnames) for m in vars(metrics).values() if hasattr(m, "_labelnames")}
    page = (ROOT / "docs/metrics.md").read_text()
    section = page[page.index(heading) :].split("\n## ")[0].split("\n| figure |")[0].split("\n| call figure |")[0]
    rows = re.findall(r"^\| `(ccs_\w+)` \| ([^|]+) \|", section, re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == declared


def test_every_figure_of_the_node_as_a_whole_is_described_and_no_other() -> None:
    from engine.telemetry.health import ChildStatus, NodeStatus
    from engine.telemetry.node_metrics import node_families

    child = ChildStatus(name="feeder", life="running", pid=1, restarts=0, failures=0, resident=0)
    status = NodeStatus(
        node_id="node-1", draining=False, state="current", incarnation="", applied=0, as_of=UnixTime(0),
        last_known_until=UnixTime(0), children=(child,), ports={},
    )  # fmt: skip
    page = (ROOT / "docs/metrics.md").read_text()
    section = page[page.index("## The node as a whole") :].split("\n## ")[0]
    described = re.findall(r"^\| `(ccs_\w+)` \|", section, re.MULTILINE)
    assert sorted(described) == sorted(family.name for family in node_families(status))


def test_every_figure_of_a_guards_calls_is_described_and_no_other() -> None:
    from engine.telemetry import guard_calls

    declared = {m._name: set(m._labelnames) for m in vars(guard_calls).values() if hasattr(m, "_labelnames")}
    page = (ROOT / "docs/metrics.md").read_text()
    section = page[page.index("| call figure |") :].split("\n| figure |")[0]
    rows = re.findall(r"^\| `(ccs_\w+)` \| ([^|]+) \|", section, re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == declared


def test_every_figure_of_a_guards_state_is_described_and_no_other() -> None:
    from engine.telemetry.guard_health import GuardHealth
    from engine.telemetry.guard_metrics import guard_families

    page = (ROOT / "docs/metrics.md").read_text()
    section = page[page.index("\n| figure |") :].split("\n## ")[0]
    described = re.findall(r"^\| `(ccs_\w+)` \|", section, re.MULTILINE)
    families = guard_families(GuardHealth(client_id="edp-1", circuit="closed", addresses=()))
    assert sorted(described) == sorted(family.name for family in families)
