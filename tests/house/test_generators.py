"""An async generator is closed where it was opened, and not by the garbage collector some time later.

A loop over a call that is left early, by a fault in its body or a cancellation, leaves its generator open; trio then
finalizes it at a random moment, in a task of its own. So a loop runs over a name that `async with aclosing(…)` gave.
"""

import ast

import pytest

from tests.house.test_imports import ROOT, sources

TOPS = ("engine", "admin", "bench", "tests")
LOOPS = (ast.AsyncFor, ast.comprehension)


def loops_over_calls(text: str) -> list[int]:
    """The lines of loops whose generator nobody can close."""
    return [
        loop.iter.lineno
        for loop in ast.walk(ast.parse(text))
        if isinstance(loop, LOOPS) and getattr(loop, "is_async", 1) and isinstance(loop.iter, ast.Call)
    ]


def test_no_loop_leaves_a_generator_open() -> None:
    found = {str(path.relative_to(ROOT)): loops_over_calls(path.read_text()) for path in sources(*TOPS)}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("async def f():\n    async for x in g():\n        h(x)", [2]),
        ("async def f():\n    return [x async for x in g()]", [2]),
        ("async def f():\n    async with aclosing(g()) as xs:\n        return [x async for x in xs for y in h()]", []),
    ],
)
def test_such_a_loop_is_found(text: str, lines: list[int]) -> None:
    assert loops_over_calls(text) == lines
