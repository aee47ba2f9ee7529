"""Lines that somebody outside can cause: written up to a bound a second for each reason, counted beyond it.

Pure: the time is passed in. One reason's flood hides no other's lines, and nobody can fill a disk with requests.
"""

from typing import Final

LINES_A_SECOND: Final = 20


class Floods:
    """One allowance for each reason; reasons are a small closed set."""

    def __init__(self, lines_a_second: int = LINES_A_SECOND) -> None:
        self._allowed = lines_a_second
        self._seconds: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def admit(self, reason: str, now: float) -> int | None:
        """None = do not write this line. Otherwise write it, with how many were left out since the last one.

        now: any clock, seconds.
        """
        second = int(now)
        if self._seconds.get(reason) != second:
            self._seconds[reason], self._written[reason] = second, 0
        if self._written[reason] >= self._allowed:
            self._left_out[reason] = self._left_out.get(reason, 0) + 1
            return None
        self._written[reason] += 1
        return self._left_out.pop(reason, 0)
