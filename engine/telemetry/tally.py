"""A count kept as a plain number where requests pass, and given to a metric once a second.

A metric of several processes is a lock and a write into a mapped file: more than the rest of what a worker does to
count a request, and its library need not be there yet when the first ones come.
"""


class Tally:
    """Counts up when called."""

    __slots__ = ("_taken", "total")

    def __init__(self) -> None:
        self.total = 0
        self._taken = 0

    def __call__(self) -> None:
        """One more."""
        self.total += 1

    def add(self, count: int) -> None:
        """So many more."""
        self.total += count

    def take(self) -> int:
        """How many have come since this was last asked."""
        new = self.total - self._taken
        self._taken = self.total
        return new
