"""Faults: what may go wrong, by kind. Each edge has one table from kind to status; nothing else escapes.

A room raises its own subclass with a text that is safe to show and a detail that is only for the log.
"""

import enum
from typing import ClassVar


class Kind(enum.Enum):
    """What sort of fault it is; edges map kinds, never classes, to statuses."""

    INVALID = "invalid"  # the caller's input is wrong
    UNAUTHENTICATED = "unauthenticated"  # the caller is not who it says
    FORBIDDEN = "forbidden"  # known, but not allowed
    NOT_FOUND = "not_found"
    GONE = "gone"  # was there once, or never here: what it was part of has to be begun anew
    CONFLICT = "conflict"  # the state of things has moved on
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    UNAVAILABLE = "unavailable"  # ask again later; nothing was done
    BROKEN = "broken"  # stored or received data fails its check


class Fault(Exception):
    """Base of every fault of ours.

    text: one sentence that may be shown to the caller. detail: for the log only, never personal data or tokens.
    retry_after: seconds after which asking again may help, where the fault knows better than its edge.
    """

    kind: ClassVar[Kind] = Kind.BROKEN
    retry_after: float | None = None

    def __init__(self, text: str, *, detail: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.detail = detail
