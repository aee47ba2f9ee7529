"""Who may act in an outage on what it knew: an EDP that was not told for a day what has ended may not, until it was.

revocation-push, section 7. Told is what it took by push or acknowledged by poll. Whether anybody was told is judged
from what stands in the outbox; each change is an event of the ledger, so that engines hear of it by their feed.
"""

import enum
from collections.abc import Callable
from typing import Final

from admin.directory import participants
from admin.directory.participants import NoChange, Standing, standing_after
from admin.ledger import receiver_standing
from admin.ledger.events import Act, ParticipantEvent, append_of, event_of
from admin.ledger.receiver_standing import Untold
from admin.ledger.store import Ledger, VersionConflict
from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, Role

TOO_LATE: Final = Seconds(86_400.0)  # an oldest event that was not told for longer ends the right
CAUGHT_UP: Final = Seconds(600.0)  # one that is no older than this is under way as usual: the first alarm's bound

Decide = Callable[[Standing | None], ParticipantEvent]


class Step(enum.Enum):
    """What is to be done about a receiver's right."""

    NONE = "none"
    SUSPEND = "suspend"
    RESTORE = "restore"


def step(standing: receiver_standing.Standing, now: float) -> Step:
    """Pure. now: seconds since 1970. An ATP has no such right: what it holds of others' it must not use anyway."""
    late = 0.0 if standing.untold is None else now - standing.untold.since
    if standing.role is not Role.EDP:
        return Step.NONE
    if standing.fallback_suspended is None:
        return Step.SUSPEND if late > TOO_LATE else Step.NONE
    return Step.RESTORE if late <= CAUGHT_UP and standing.caught_up else Step.NONE


class FallbackRights:
    """Writes what is to be done. Several processes may find the same at once: the ledger takes one of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def suspend(self, client_id: ClientId, untold: Untold, act: Act) -> bool:
        """False: it is so already, or somebody changed the participant just now. Raises the ledger's faults."""
        oldest_at = UnixTime(int(untold.since))
        return await self._write(
            client_id, lambda current: participants.suspend_fallback(current, untold.seq, oldest_at, act)
        )

    async def restore(self, client_id: ClientId, act: Act) -> bool:
        """As `suspend`."""
        return await self._write(client_id, lambda current: participants.restore_fallback(current, act))

    async def _write(self, client_id: ClientId, decide: Decide) -> bool:
        state = await self._ledger.subject(f"participant:{client_id}")
        event = None if state is None else event_of(state.event)
        current = standing_after(event) if isinstance(event, ParticipantEvent) else None
        try:
            await self._ledger.append([append_of(decide(current), 0 if state is None else state.version)])
        except (NoChange, VersionConflict):  # the next look finds how it stands then
            return False
        return True
