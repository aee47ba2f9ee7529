"""The feed over HTTPS, when Redis is silent or absent: a long poll for entries, a check for their freshness.

It steps in when no counting answer has come by way of Redis for a while, long before the bound runs out, and
steps back as soon as Redis answers again; when exactly, `engine.replica.pace` draws. It is also what settles which
incarnation is the true one. Calls are never cut off from here: each ends by its own limit.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from engine.backoff import Backoff
from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.feed.entries import Entry, ForgedEntry, unseal
from engine.replica.bell import Bell
from engine.replica.follower import Follower
from engine.replica.layout import BrokenReplica
from engine.replica.pace import LOOK_EVERY, REDIS_PATIENCE, check_pause, patience
from engine.replica.service import FeedService
from engine.telemetry.logs import logger

POLL_WAIT: Final = Seconds(5.0)
CHECK_NOT_BEFORE: Final = Seconds(0.02)
WITHOUT_ROOM: Final = Seconds(1.0)  # between tries to fetch what the replica cannot take
FAR_BEHIND: Final = 200_000  # entries; beyond that a snapshot is quicker
RETRY: Final = Backoff(first=Seconds(0.1), limit=Seconds(2.0))

_log = logger("feeder")


class HttpsWay:
    """Follows the feed over HTTPS while it is needed.

    redis_silence: seconds since Redis last brought an answer that counts. jitter: numbers in [0, 1).
    """

    def __init__(
        self,
        service: FeedService,
        follower: Follower,
        *,
        mac_keys: tuple[bytes, ...],
        redis_silence: Callable[[], Seconds],
        jitter: Callable[[], float],
    ) -> None:
        self.renew = Bell()  # rings when only a snapshot can help
        self.healed = 0  # gaps closed
        self.last_fault = ""
        self._service = service
        self._follower = follower
        self._mac_keys = mac_keys
        self._redis_silence = redis_silence
        self._jitter = jitter
        self._patience = REDIS_PATIENCE

    def needed(self) -> bool:
        """Whether Redis does not do, or something is in doubt."""
        silence = self._redis_silence()
        if silence <= REDIS_PATIENCE:
            self._patience = patience(self._jitter())  # for the next silence
        return self._follower.in_doubt or silence > self._patience

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._for_ever, self._poll)
            nursery.start_soon(self._for_ever, self._check)
            nursery.start_soon(self._for_ever, self._heal)

    async def _for_ever(self, turn: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            try:
                await turn()
                failures, self.last_fault = 0, "" if failures else self.last_fault
            except BrokenReplica:
                raise  # trying again mends no file: the next start throws it away
            except Fault as fault:
                failures += 1
                self._note(fault)
                await trio.sleep(max(LOOK_EVERY, RETRY.delay(failures, self._jitter())))

    def _note(self, fault: Fault) -> None:
        if fault.kind is Kind.CONFLICT:
            self._follower.doubt("")  # the feed service does not know our incarnation; the check will settle it
        if fault.text != self.last_fault:
            _log.warning("https_feed_failed", text=fault.text, detail=fault.detail)
        self.last_fault = fault.text

    async def _wait_needed(self) -> None:
        while not self.needed():  # noqa: ASYNC110 - silence grows by itself: no event marks its limit
            await trio.sleep(LOOK_EVERY)

    async def _poll(self) -> None:
        await self._wait_needed()
        before = self._follower.position
        self._follower.take_entries(self._genuine(await self._service.entries(before, POLL_WAIT)))
        if self._follower.position == before:
            await trio.sleep(self._before_more())

    def _before_more(self) -> Seconds:
        """Until entries are fetched again that may not have been taken."""
        return WITHOUT_ROOM if self._follower.full else LOOK_EVERY

    async def _check(self) -> None:
        await self._wait_needed()
        next_at = trio.current_time() + check_pause(self._jitter())  # also where the answer is slow
        rings, doubts = self._follower.applied.rings, self._follower.doubted.rings
        question = self._follower.ask()
        answer = await self._service.check(question)
        position = self._follower.position
        if question.incarnation != position.incarnation:
            return  # another generation was adopted meanwhile
        if answer.incarnation != position.incarnation:
            self._follower.disown()
            self.renew.ring()
        else:
            if self._follower.doubted.rings == doubts:  # a doubt that came later is not settled by this
                self._follower.trust()
            self._follower.take_answer(answer)
        await trio.sleep(CHECK_NOT_BEFORE)
        with trio.move_on_at(next_at):
            await self._follower.applied.wait_beyond(rings)

    async def _heal(self) -> None:
        """Close a gap when one was seen, or when an answer speaks of entries that do not come."""
        rings = self._follower.missing.rings
        with trio.move_on_after(self._before_more()):
            await self._follower.missing.wait_beyond(rings)
        if self._follower.missing.rings > rings or self._follower.overdue():
            await self._close_gap()

    async def _close_gap(self) -> None:
        follower = self._follower
        while not follower.in_doubt:
            if follower.head - follower.position.seq > FAR_BEHIND:
                self.renew.ring()
                return
            before = follower.position
            follower.take_entries(self._genuine(await self._service.entries(before, Seconds(0.0))))
            if follower.position == before:
                return
            self.healed += 1
            _log.info("gap_closed", after=before.seq, to=follower.position.seq)

    def _genuine(self, sealed: Sequence[bytes]) -> list[Entry]:
        entries = []
        for item in sealed:
            try:
                entries.append(unseal(item, self._mac_keys))
            except ForgedEntry as fault:
                raise ForgedEntry("the feed service sent an entry that no key of ours has sealed") from fault
        return entries
