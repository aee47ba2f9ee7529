"""The page about outages and the suite that shows them: a row for each test, a test for each row, a word on alarms."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/operators/outages.md"
SUITE = ROOT / "tests/world/outages"
NIGHT = "## At three in the morning"
COLUMNS = ("outage", "consumer", "EDP A", "EDP B", "/readyz", "what heals it", "what you do", "test")
WHERE_FEEDS_ARE = ("engine/replica", "engine/feed", "admin/ledger")  # rooms whose warnings tell of an outage
NOT_AN_OUTAGE = {"refused"}


def rows(section: str) -> list[list[str]]:
    """The cells of the tables' rows, heads and rules apart."""
    lines = [line for line in section.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_row_has_every_column_and_an_existing_test_and_every_test_has_a_row() -> None:
    named = []
    for row in rows(PAGE.read_text().split(NIGHT)[0]):
        if tuple(row) == COLUMNS:
            continue
        assert len(row) == len(COLUMNS), row
        assert all(row), row
        named += [(Path(path).name, test) for test, path in re.findall(r"\[(test_\w+)\]\(([^)]+)\)", row[-1])]
    assert sorted(named) == sorted(suite())


def suite() -> list[tuple[str, str]]:
    return [
        (path.name, node.name)
        for path in SUITE.glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def test_every_warning_about_the_feed_and_the_replica_is_explained() -> None:
    night = PAGE.read_text().split(NIGHT)[1]
    said = set()
    for room in WHERE_FEEDS_ARE:
        for path in (ROOT / room).rglob("*.py"):
            said |= set(re.findall(r'_log\.(?:warning|error|critical)\(\s*"(\w+)"', path.read_text()))
    explained = set(re.findall(r"`(\w+)`", night))
    assert said - NOT_AN_OUTAGE - explained == set()


def test_every_metric_and_log_line_that_the_page_names_exists() -> None:
    night = PAGE.read_text().split(NIGHT)[1]
    first_cells = " ".join(row[0] for row in rows(night))
    metrics = set(re.findall(r"`(ccs_\w+)", first_cells))
    described = set(re.findall(r"^\| `(ccs_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    assert metrics
    assert metrics <= described
    code = "\n".join(path.read_text() for room in ("engine", "admin") for path in (ROOT / room).rglob("*.py"))
    for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", first_cells):
        assert f'"{name}"' in code, name
