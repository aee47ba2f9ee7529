"""How often each mistake was found: kept in a file, and shown in decision 0021."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from tests.world.pushing.mistakes import MISTAKES
from tests.world.pushing.world import Played

FOUND: Final = Path(__file__).with_name("found.json")
PAGE: Final = Path(__file__).parents[3] / "docs/decisions/0021-proof-by-simulation.md"
BEGIN, END = "<!-- mistakes of pushes: written by the tool -->\n", "<!-- end of these -->\n"
ENOUGH: Final = 0.05  # the share of seeds in which each mistake must be found
LISTED: Final = 4  # seeds kept for a mistake


class Found(msgspec.Struct):
    """How often a mistake was found: in so many of so many seeds, first by this promise."""

    found: int
    of: int
    promise: str
    seeds: list[int]

    @property
    def share(self) -> float:
        return self.found / self.of


def found_of(played: Iterable[Played]) -> Found:
    """What came of the same mistake under many seeds."""
    all_of_them = list(played)
    wrong = sorted((one for one in all_of_them if one.wrongs), key=lambda one: one.seconds)  # the quickest first
    promises = Counter(one.wrongs[0].promise for one in wrong)
    promise = promises.most_common(1)[0][0] if promises else "–"
    return Found(len(wrong), len(all_of_them), promise, [one.seed for one in wrong[:LISTED]])


def read_found() -> dict[str, Found]:
    """As it was measured last."""
    return msgspec.json.decode(FOUND.read_bytes(), type=dict[str, Found]) if FOUND.exists() else {}


def write_found(found: Mapping[str, Found]) -> None:
    """Keep it, and write the page's table anew."""
    FOUND.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(found) + END + rest.partition(END)[2])


def table(found: Mapping[str, Found]) -> str:
    """The table of the page."""
    lines = ["", "| mistake | what is changed | found in | first told as | one seed |", "|---|---|---|---|---|"]
    for name, mistake in MISTAKES.items():
        one = found.get(name)
        measured = "not measured yet | – | –" if one is None else _row(one)
        lines.append(f"| {name} | {mistake.change} | {measured} |")
    return "\n".join(lines) + "\n\n"


def _row(one: Found) -> str:
    return f"{one.share:.0%} of {one.of} | {one.promise} | {one.seeds[0] if one.seeds else '–'}"
