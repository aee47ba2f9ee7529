"""The page of rules of events and guards: no row is missing, and each is held by tests that exist and run."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/event-rules.md"
# How many rows a section has: a rule that goes must be taken out here as well, on purpose.
ROWS = {
    "What is checked of an event": range(16),  # 0 is their order
    "Bad input to a receiver": range(1, 19),
    "What an event says, and to whom": range(1, 21),
    "What becomes of a push": range(1, 22),
    "How the service pushes": range(1, 11),
    "Poll": range(1, 9),
    "Streams": range(1, 15),
    "Loss and healing": range(1, 13),
    "How a guard checks a signed answer": range(1, 13),
    "How a guard asks": range(1, 14),
    "What a share is asked about": range(1, 7),
    "When nobody answers": range(1, 12),
    "What must not be lost, doubled or told": range(1, 6),
    "Over a restore of the ledger": range(1, 18),
    "All of it together": range(1, 13),
}
LINK = re.compile(r"\[(test_\w+)\]\(\.\./([^)]+)\)")


def sections() -> dict[str, str]:
    head, *parts = PAGE.read_text().split("\n## ")
    assert not LINK.search(head)
    return dict(part.split("\n", 1) for part in parts)


def rows(section: str) -> list[list[str]]:
    """The cells of the table's rows, its head and its rule apart."""
    lines = [line for line in section.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


@cache
def functions_of(path: str) -> frozenset[str]:
    """Functions, and methods of contracts' classes."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_no_row_is_missing_and_each_is_whole() -> None:
    found = sections()
    assert found.keys() == ROWS.keys()
    for name, numbers in ROWS.items():
        table = rows(found[name])
        assert [row[0] for row in table] == [str(number) for number in numbers], name
        assert len({len(row) for row in table}) == 1, name
        assert all(all(row) for row in table), name


def test_each_row_is_held_by_tests_that_exist() -> None:
    for name, section in sections().items():
        for row in rows(section):
            held_by = LINK.findall(row[-1])
            assert held_by, (name, row[0])
            for test, path in held_by:
                assert test in functions_of(path), (name, row[0], test, path)


def test_each_test_that_is_named_is_run() -> None:
    """Not skipped, not expected to fail; and a contract's, which is no test by itself, by a test that takes it over."""
    contracts = "".join(path.read_text() for path in (ROOT / "tests/contracts").glob("test_*.py"))
    for test, path in LINK.findall(PAGE.read_text()):
        assert test in functions_of(path) - unsure_of(path), (test, path)
        if not Path(path).name.startswith("test_"):
            assert f"from tests.contracts.{Path(path).stem} import" in contracts, (test, path)


@cache
def unsure_of(path: str) -> frozenset[str]:
    """Functions with a mark that keeps them from running, or from failing."""
    return frozenset(
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(re.search(r"mark\.(skip|xfail)", ast.unparse(mark)) for mark in node.decorator_list)
    )


def test_each_test_that_is_named_after_a_row_is_on_the_page() -> None:
    page = set(LINK.findall(PAGE.read_text()))
    for path in ("tests/engine/events/test_verification.py", "tests/engine/guard/test_receiver.py"):
        for test in functions_of(path):
            assert not re.match(r"test_rows?_\d", test) or (test, path) in page, test
