"""What many worlds came to: counted, and said in words, in JSON, and in the tables of decision 0021."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from tests.world.simulation.mistakes import MISTAKES
from tests.world.simulation.protocol_mistakes import MODEL
from tests.world.simulation.world import Played, Wrong

FOUND = Path(__file__).with_name("found.json")
PAGE = Path(__file__).parents[3] / "docs/decisions/0021-proof-by-simulation.md"
BEGIN, END = "<!-- mistakes: written by the tool -->\n", "<!-- end -->\n"
ENOUGH = 0.05  # the share of seeds in which each mistake must be found
LISTED = 4  # seeds kept for a mistake


class Summary(msgspec.Struct):
    """Of many seeds. counted: by name, over all of them."""

    seeds: int = 0
    seconds: float = 0.0  # simulated
    wrong: dict[int, Wrong] = {}
    counted: dict[str, int] = {}

    def take(self, played: Played) -> None:
        """One more."""
        self.seeds += 1
        self.seconds += played.seconds
        self.counted = dict(Counter(self.counted) + Counter(played.counted))
        if played.wrongs:
            self.wrong[played.seed] = played.wrongs[0]

    def group(self, name: str) -> dict[str, int]:
        """What was counted under one head, e.g. `fault`."""
        return {k.removeprefix(f"{name}: "): v for k, v in sorted(self.counted.items()) if k.startswith(f"{name}: ")}

    def lines(self) -> Iterable[str]:
        """For people."""
        yield f"{self.seeds} seeds, {self.seconds:,.0f} simulated seconds, {len(self.wrong)} with a broken promise"
        for head in ("request", "receipt", "write", "fault", "recovery"):
            counted = self.group(head)
            yield f"{sum(counted.values()):>8} {head}: " + ", ".join(f"{k} {v}" for k, v in counted.items())


class Found(msgspec.Struct):
    """How often a mistake was found: in so many of so many seeds, first by this promise."""

    found: int
    of: int
    promise: str
    seeds: list[int]

    @property
    def share(self) -> float:
        return self.found / self.of


def read_found() -> dict[str, Found]:
    """As it was measured last."""
    return msgspec.json.decode(FOUND.read_bytes(), type=dict[str, Found]) if FOUND.exists() else {}


def write_found(found: Mapping[str, Found]) -> None:
    """Keep it, and write the page's tables anew."""
    FOUND.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables(found) + END + rest.partition(END)[2])


def tables(found: Mapping[str, Found]) -> str:
    """The two tables of the page."""
    model = [mistake.name for mistake in MODEL]
    own = [name for name in MISTAKES if name not in model]
    return f"\nOf the model:\n\n{_table(model, found)}\nOf the code:\n\n{_table(own, found)}\n"


def _table(names: Iterable[str], found: Mapping[str, Found]) -> str:
    lines = ["| mistake | what is changed | found in | first told as | one seed |", "|---|---|---|---|---|"]
    for name in names:
        measured = _row(found[name]) if name in found else "not measured yet | – | –"
        lines.append(f"| {name} | {MISTAKES[name].change} | {measured} |")
    return "\n".join(lines) + "\n"


def _row(one: Found) -> str:
    seed = one.seeds[0] if one.seeds else "–"
    return f"{one.share:.0%} of {one.of} | {one.promise} | {seed}"


def found_of(played: Iterable[Played]) -> Found:
    """What came of the same mistake under many seeds."""
    all_of_them = list(played)
    wrong = [one for one in all_of_them if one.wrongs]
    promises = Counter(one.wrongs[0].promise.partition(":")[0] for one in wrong)
    promise = promises.most_common(1)[0][0] if promises else "–"
    wrong.sort(key=lambda one: one.seconds)  # the quickest first
    return Found(len(wrong), len(all_of_them), promise, [one.seed for one in wrong[:LISTED]])
