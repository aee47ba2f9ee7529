"""Looks after the receivers: ends their own pauses in time, and says loudly who is owed events for too long.

revocation-push, section 7: an oldest event that was not pushed for ten minutes is an alert, for an hour a call to the
receiver. One that an EDP was told in neither way for a day ends its right to fall back, until it has caught up.
"""

import enum
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from admin import metrics
from admin.directory.fallback_rights import TOO_LATE, FallbackRights, Step, step
from admin.directory.stream_service import Streams
from admin.ledger.events import Act, Initiator, Route
from admin.ledger.receiver_standing import Standing
from engine.clock import Seconds, UnixTime, format_utc
from engine.consent.records import ClientId
from engine.errors import Fault
from engine.telemetry.logs import logger

LOOK_EVERY: Final = Seconds(10.0)  # a pause lasts at most so much longer than it may
ACTOR: Final = ClientId("receiver-watch")

_log = logger("admin.receivers")
_security = logger("security")


class Lateness(enum.IntEnum):
    """How long a receiver's oldest event has not come to it; the number of seconds is above which."""

    NONE = 0
    ALERT = 600  # not pushed: who polls a quarter of an hour later is well
    CALL = 3_600  # neither pushed nor acknowledged by poll, or not pushed
    NO_FALLBACK = int(TOO_LATE)  # neither


_NAMES: Final = {Lateness.ALERT: "10m", Lateness.CALL: "1h", Lateness.NO_FALLBACK: "24h"}


def lateness(standing: Standing, now: float) -> Lateness:
    """How late a receiver's oldest event is. now: seconds since 1970."""
    unsent = 0.0 if standing.oldest_unsent is None else now - standing.oldest_unsent
    untold = 0.0 if standing.untold is None else now - standing.untold.since
    by_unsent = [level for level in (Lateness.ALERT, Lateness.CALL) if unsent > level]
    by_untold = [level for level in (Lateness.CALL, Lateness.NO_FALLBACK) if untold > level]
    return max([Lateness.NONE, *by_unsent, *by_untold])


class ReceiverWatch:
    """standings: of all receivers, as of the last look. read: reads them anew. wall: seconds since 1970."""

    def __init__(
        self,
        streams: Streams,
        rights: FallbackRights,
        read: Callable[[], Awaitable[Sequence[Standing]]],
        now: Callable[[], UnixTime],
        wall: Callable[[], float],
    ) -> None:
        self._streams = streams
        self._rights = rights
        self._read = read
        self._now = now
        self._wall = wall
        self._late: dict[ClientId, Lateness] = {}
        self._parked: dict[ClientId, int] = {}
        self.standings: Sequence[Standing] = ()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every LOOK_EVERY until cancelled; a ledger that is away is looked for again."""
        task_status.started()
        while True:
            try:
                await self.look()
            except Fault as fault:
                _log.warning("receivers_not_seen", text=fault.text, detail=fault.detail)
            await trio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Once. Raises the ledger's faults."""
        self.standings, now = await self._read(), self._wall()
        await self._resume()
        late = {one.client_id: lateness(one, now) for one in self.standings}
        for standing in self.standings:
            self._tell(standing, late[standing.client_id], now)
            await self._judge(standing, now)
        self._late = late
        self._parked = {one.client_id: one.parked for one in self.standings}
        self._count()

    async def _resume(self) -> None:
        act = Act(Initiator.SYSTEM, ACTOR, Route.SYSTEM, self._now())
        known = [stream for standing in self.standings for stream in standing.streams]
        for stream in await self._streams.resume(known, act):
            _log.info("pause_ended", client_id=stream.client_id, stream_id=stream.stream_id)

    async def _judge(self, standing: Standing, now: float) -> None:
        """Its right to fall back, as it stands now."""
        client_id, act = standing.client_id, Act(Initiator.SYSTEM, ACTOR, Route.SYSTEM, self._now())
        todo, untold = step(standing, now), standing.untold
        if todo is Step.SUSPEND and untold is not None and await self._rights.suspend(client_id, untold, act):
            oldest_at = format_utc(UnixTime(int(untold.since)))
            metrics.FALLBACK_RIGHTS.labels("suspended").inc()
            _log.error("fallback_right_suspended", client_id=client_id, oldest_seq=untold.seq, oldest_at=oldest_at)
            _security.warning("security_event", kind="fallback_right_suspended", caller=client_id, detail=oldest_at)
        elif todo is Step.RESTORE and await self._rights.restore(client_id, act):
            metrics.FALLBACK_RIGHTS.labels("restored").inc()
            _log.warning("fallback_right_restored", client_id=client_id)

    def _tell(self, standing: Standing, late: Lateness, now: float) -> None:
        """Each change of how late a receiver is once, and each event that was parked beyond those known."""
        client_id, before = standing.client_id, self._late.get(standing.client_id, Lateness.NONE)
        if standing.parked > self._parked.get(client_id, 0):
            _log.error("deliveries_parked", client_id=client_id, parked=standing.parked, error=standing.error)
        if late > before:
            since = (standing.oldest_unsent, None if standing.untold is None else standing.untold.since)
            seconds = int(now - min(at for at in since if at is not None))
            tell = _log.warning if late is Lateness.ALERT else _log.error
            tell("receiver_behind", client_id=client_id, beyond=_NAMES[late], seconds=seconds, error=standing.error)
        elif late is Lateness.NONE and before is not late:
            _log.info("receiver_caught_up", client_id=client_id)

    def _count(self) -> None:
        for level, name in _NAMES.items():
            metrics.RECEIVERS_BEHIND.labels(name).set(sum(late >= level for late in self._late.values()))
        metrics.FALLBACK_SUSPENDED.set(sum(one.fallback_suspended is not None for one in self.standings))
        metrics.RECEIVERS_PARKED.set(sum(parked > 0 for parked in self._parked.values()))
