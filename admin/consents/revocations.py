"""Whether a revocation has reached every engine: what the consumer is shown after pressing the button.

*Recorded* means that the ledger has it for good. *Effective* means that no engine answers the consent active any
more; the barrier concludes it, from acknowledgements or by waiting them out.
"""

from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from admin.ledger.barrier import Effect
from admin.ledger.events import ConsentRevoked
from admin.ledger.store import Receipt
from admin.writing import Place, place
from engine.clock import Seconds, UnixTime, format_utc

MAX_WAIT: Final = Seconds(30.0)  # far beyond the two seconds and a margin in which every revocation is effective


class Waits(Protocol):
    """What concludes whether a write is effective: the barrier."""

    async def wait_effective(
        self,
        receipt: Receipt,
        timeout: Seconds,  # noqa: ASYNC109 - the barrier's own
    ) -> Effect: ...


class NodeView(msgspec.Struct, frozen=True, omit_defaults=True):
    """An engine node that could have answered without the revocation, and whether it said that it has it."""

    node_id: str
    instance: str
    acknowledged: bool
    last_heard: str = ""


class TakenAfter(msgspec.Struct, frozen=True):
    """Data to flag: what was taken under the consent within [taken_from, taken_before), after it was valid no more."""

    taken_from: str
    taken_before: str


class RevocationView(msgspec.Struct, frozen=True):
    """How far a revocation has come. how: `pending` while recorded.

    milliseconds: from the commit to the conclusion, or to this answer while it is pending. reason: as it was told.
    data_to_flag: null where the end was told at once.
    """

    consent_id: str
    state: Literal["recorded", "effective"]
    position: Place
    how: Literal["pending", "acknowledged", "waited_out"]
    nodes: tuple[NodeView, ...]
    milliseconds: Annotated[int, Meta(ge=0)]
    reason: str
    effective_from: str
    data_to_flag: TakenAfter | None


def view_of(event: ConsentRevoked, effect: Effect) -> RevocationView:
    """The barrier's conclusion as it is shown."""
    return RevocationView(
        consent_id=event.consent_id,
        state=effect.state.value,
        position=place(effect.position),
        how="pending" if effect.how is None else effect.how.value,
        nodes=tuple(
            NodeView(
                node_id=node.node_id,
                instance=node.instance,
                acknowledged=node.acknowledged,
                last_heard=format_utc(UnixTime(int(node.last_heard))) if node.last_heard else "",
            )
            for node in effect.nodes
        ),
        milliseconds=effect.milliseconds,
        reason=event.act.reason or "",
        effective_from=format_utc(event.effective_from),
        data_to_flag=_to_flag(event),
    )


def _to_flag(event: ConsentRevoked) -> TakenAfter | None:
    """CMS-23: before the grant nothing was taken, from the end on nothing can be."""
    taken_from = max(event.effective_from, event.consent.granted_at)
    if taken_from >= event.act.at:
        return None
    return TakenAfter(format_utc(taken_from), format_utc(event.act.at))
