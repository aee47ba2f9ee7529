"""Rounds of several contenders, interleaved, and what they come to: medians, spread, a table."""

import json
import statistics
from collections.abc import Callable, Mapping

import msgspec


class WrongAnswer(Exception):
    """A contender did not do its work; there is nothing to compare."""


class Measured(msgspec.Struct, frozen=True):
    """One round of one contender. cpu: seconds of the server, all its processes; elapsed: seconds on the wall."""

    items: int
    elapsed: float
    cpu: float

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.elapsed

    @property
    def cpu_us(self) -> float:
        """CPU-microseconds of the server for each item."""
        return self.cpu / self.items * 1e6

    @property
    def busy(self) -> float:
        """Share of one core that the server used."""
        return self.cpu / self.elapsed


Round = Callable[[], Measured]


class Spread(msgspec.Struct, frozen=True):
    """Median, least and greatest of the rounds."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        digits = 0 if self.median >= 1_000 else 1 if self.median >= 10 else 2
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} to {self.greatest:,.{digits}f})"


class Figures(msgspec.Struct, frozen=True):
    """What the rounds of one contender come to."""

    rate: Spread
    cpu_us: Spread
    busy: float


def interleave(contenders: Mapping[str, Round], rounds: int) -> dict[str, list[Measured]]:
    """A B C, A B C, …: a slow minute of the machine falls on all of them. Raises WrongAnswer, naming whose."""
    found: dict[str, list[Measured]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            try:
                found[name].append(run())
            except WrongAnswer as wrong:
                raise WrongAnswer(f"{name}: {wrong}") from wrong
    return found


def spread(values: list[float]) -> Spread:
    """values: one a round, at least one."""
    return Spread(statistics.median(values), min(values), max(values))


def figures(measured: list[Measured]) -> Figures:
    """Of one contender."""
    return Figures(
        rate=spread([one.rate for one in measured]),
        cpu_us=spread([one.cpu_us for one in measured]),
        busy=statistics.median([one.busy for one in measured]),
    )


def lines(results: Mapping[str, Figures]) -> list[str]:
    """A table for people: medians, and least to greatest in brackets."""
    width = max(len(name) for name in results) + 2
    head = f"{'':<{width}}{'CPU-µs each':>26}{'a second':>32}{'core used':>12}"
    rows = [f"{name:<{width}}{one.cpu_us!s:>26}{one.rate!s:>32}{one.busy:>11.0%} " for name, one in results.items()]
    return [head, *(row.rstrip() for row in rows)]


def as_json(name: str, results: Mapping[str, Figures], **more: object) -> str:
    """One line: everything that was measured, for the page of results."""
    return json.dumps({"bench": name, "contenders": msgspec.to_builtins(results), **more})
