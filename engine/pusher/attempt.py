"""One attempt to push one delivery: signed, sent while it may be, judged by the table."""

from functools import partial
from typing import Final

import msgspec

from engine.pusher.connections import Unreached
from engine.pusher.destination import Destination
from engine.pusher.outbox import Held
from engine.pusher.schedule import PUSHED_FOR, Alarm, Attempt, Judgement, Reply, Trouble, judge
from engine.pusher.service import Delivery, Fate
from engine.pusher.signing import CannotSign, Gone
from engine.pusher.tools import Tools
from engine.telemetry import pusher_metrics

GONE: Final = "gone"  # the error of a delivery that the outbox does not have any more


class Ended(msgspec.Struct, frozen=True):
    """An attempt has. judged None: it was not made, and the delivery stands where it stood."""

    held: Held
    judged: Judgement | None
    result: Reply | Trouble | None = None
    at: float = 0.0


async def attempt(held: Held, destination: Destination, tools: Tools) -> Ended:
    """Make it, unless the lease, the stream or the delivery's age has come in between. Tells alarms and metrics."""
    delivery = held.delivery
    if is_past(delivery, tools.wall()):
        return Ended(held, None)
    judged: Judgement | None = None
    result: Reply | Trouble | None = None
    detail = ""
    try:
        result = await _sent(held, destination, tools)
    except Unreached as fault:
        result, detail = fault.trouble, fault.detail
    except CannotSign:
        judged = Judgement(Fate.PARKED, "cannot_sign", alarm=Alarm.PARKED)
    except Gone:
        judged = Judgement(Fate.DONE, GONE)
    now = tools.wall()
    if result is not None:
        judged = judge(Attempt(delivery.lane, held.attempts + 1, result, now, tools.jitter(), refusals=held.refusals))
    if judged is not None and judged.error != GONE:
        tools.alarms.attempted(delivery, result, judged, now=now, detail=detail)
    return Ended(held, judged, result, now)


def is_past(delivery: Delivery, now: float) -> bool:
    """Whether it is too old to be pushed."""
    return now - delivery.committed_at >= PUSHED_FOR


async def _sent(held: Held, destination: Destination, tools: Tools) -> Reply | None:
    """None: it may not be. Raises Unreached, CannotSign, Gone."""
    delivery = held.delivery
    content = await tools.signing.signed(delivery)
    target = destination.target
    if target is None or not tools.tenure.holds() or not destination.takes(delivery):
        return None
    return await tools.outward.push(delivery.client_id, target, content, begun=partial(_begun, held, tools))


def _begun(held: Held, tools: Tools) -> None:
    """After its wait for a connection: receivers and people wait from the commit to here."""
    if not held.attempts:
        waited = max(0.0, tools.wall() - held.delivery.committed_at)
        pusher_metrics.FIRST_ATTEMPT.labels(held.delivery.lane.name.lower()).observe(waited)
