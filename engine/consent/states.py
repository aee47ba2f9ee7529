"""The life of a consent as one table: state -> event -> state.

Whatever is not in the table is refused. Ended states have no row at all, so no order of events can bring an
ended consent back (CMS-04). `docs/flows.md` prints its diagram from this table.
"""

import enum
from typing import Final

from engine.errors import Fault, Kind


class State(enum.IntEnum):
    """Stored as its number: never renumber. The wire form is the lower-case name."""

    REQUESTED = 1
    ACTIVE = 2
    CONSUMED = 3
    EXPIRED = 4
    REVOKED = 5
    TERMINATED_BY_DISPUTE = 6
    SUPERSEDED = 7
    DECLINED = 8
    ABANDONED = 9


class Event(enum.StrEnum):
    """What may happen to a consent; the tag of its ledger event is `consent.` + this."""

    REQUESTED = "requested"
    GRANTED = "granted"
    DECLINED = "declined"
    ABANDONED = "abandoned"
    RENEWED = "renewed"
    WINDOW_CUT = "window_cut"
    CONSUMED = "consumed"
    EXPIRED = "expired"
    REVOKED = "revoked"
    DISPUTED = "disputed"
    SUPERSEDED = "superseded"


TRANSITIONS: Final[dict[State | None, dict[Event, State]]] = {
    None: {Event.REQUESTED: State.REQUESTED, Event.GRANTED: State.ACTIVE},
    State.REQUESTED: {
        Event.GRANTED: State.ACTIVE,
        Event.DECLINED: State.DECLINED,
        Event.ABANDONED: State.ABANDONED,
    },
    State.ACTIVE: {
        Event.RENEWED: State.ACTIVE,
        Event.WINDOW_CUT: State.ACTIVE,
        Event.CONSUMED: State.CONSUMED,
        Event.EXPIRED: State.EXPIRED,
        Event.REVOKED: State.REVOKED,
        Event.DISPUTED: State.TERMINATED_BY_DISPUTE,
        Event.SUPERSEDED: State.SUPERSEDED,
    },
}

ENDED: Final = frozenset(State) - {State.REQUESTED, State.ACTIVE}


class IllegalTransition(Fault):
    """The event does not fit the consent's state.

    state: the one it is in, where that is what speaks against it. since: seconds since 1970, where that is known.
    """

    kind = Kind.CONFLICT

    def __init__(self, text: str, *, detail: str = "", state: State | None = None, since: int | None = None) -> None:
        super().__init__(text, detail=detail)
        self.state = state
        self.since = since


def step(state: State | None, event: Event) -> State:
    """The state after an event; None = the consent does not exist yet. Raises IllegalTransition."""
    after = TRANSITIONS.get(state, {}).get(event)
    if after is None:
        now = "does not exist" if state is None else f"is {_words(state.name)}"
        raise IllegalTransition(f"the consent {now}: it cannot be {_words(event.value)}", state=state)
    return after


def _words(name: str) -> str:
    return name.lower().replace("_", " ")
