"""Whether a revocation has reached every engine: what the consumer is shown after pressing the button.

*Recorded* means that the ledger has it for good. *Effective* means that no engine answers the consent active any
more; the barrier concludes it, from acknowledgements or by waiting them out.
"""

from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from admin.writing import Place, place
from engine.clock import Seconds
from engine.consent.records import ConsentId
from engine.feed.entries import Position

MAX_WAIT = Seconds(30.0)  # far beyond the 2 s and a margin in which every revocation is effective


class Conclusion(msgspec.Struct, frozen=True):
    """What is known of a position. how: `pending`, `acknowledged`, `waited_out`; nodes: those it still waits for,
    or that did not acknowledge; seconds: since the commit, until concluded or until now."""

    effective: bool
    how: str
    nodes: tuple[str, ...]
    seconds: Seconds


class Barrier(Protocol):
    """Concludes whether everything up to a position is effective."""

    async def wait_effective(self, position: Position, committed_at: float, within: Seconds) -> Conclusion:
        """Wait up to `within` seconds for the conclusion; 0 = as it is now. committed_at: seconds since 1970."""


class RevocationView(msgspec.Struct, frozen=True):
    """How far a revocation has come. milliseconds: from the commit to the conclusion, or to this answer."""

    consent_id: str
    state: Literal["recorded", "effective"]
    position: Place
    how: str
    nodes: tuple[str, ...]
    milliseconds: Annotated[int, Meta(ge=0)]


def view_of(consent_id: ConsentId, position: Position, conclusion: Conclusion) -> RevocationView:
    """A conclusion as it is shown."""
    return RevocationView(
        consent_id=consent_id,
        state="effective" if conclusion.effective else "recorded",
        position=place(position),
        how=conclusion.how,
        nodes=conclusion.nodes,
        milliseconds=max(0, round(conclusion.seconds * 1_000)),
    )
