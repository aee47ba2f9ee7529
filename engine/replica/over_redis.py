"""The feed by way of Redis: entries and answers on one blocking link, questions on another.

Redis is only a carrier here. Whatever it brings is checked by its MAC and judged by the follower; whatever it
withholds is noticed by the answers that speak of it, or by their absence.
"""

from typing import Final

import msgspec
import trio

from engine.clock import BootTime, Clock, Seconds
from engine.feed.entries import Entry, ForgedEntry, unseal
from engine.feed.questions import ForgedMessage, seal_question, unseal_answer
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import StreamItem, raise_first_fault
from engine.feed.redis_faults import RedisFault
from engine.feed.redis_names import (
    ANSWER_FIELD,
    ASKED,
    QUESTION_LIFE_MS,
    STREAM,
    STREAM_FIELD,
    answers_key,
    question_key,
    stream_id,
)
from engine.replica.follower import Follower
from engine.telemetry.logs import logger

ASK_EVERY: Final = Seconds(0.1)
ASK_NOT_BEFORE: Final = Seconds(0.005)  # entries that come in a flood are acknowledged 200 times a second
BLOCK_MS: Final = 500
READ_ANEW_EVERY: Final = Seconds(1.0)  # how long a stream that began anew below our place can go unread
AFTER_REFUSAL: Final = Seconds(0.2)  # a refused command would be refused again at once
COUNT: Final = 500

_log = logger("feeder")


class RedisLinks(msgspec.Struct, frozen=True):
    """Two clients, both run by the feeder. tail: blocks in XREAD, so nobody else uses it."""

    tail: RedisClient
    asks: RedisClient


class ReadingPlace:
    """From where to read on in both streams.

    It follows what was read, so that forged entries are passed once, and returns to what is applied from time to
    time: a stream that was flushed, or promoted elsewhere, may begin anew below.
    """

    def __init__(self) -> None:
        self._entries = self._answers = b"0-0"
        self._renewed_at: float | None = None

    def after(self, applied: int, now: float) -> tuple[bytes, bytes]:
        """(last id of the feed, last id of the answers) for the next read. now: any monotonic seconds."""
        if self._renewed_at is None or now - self._renewed_at >= READ_ANEW_EVERY:
            self._entries, self._answers = stream_id(applied), b"0-0"
            self._renewed_at = now
        return self._entries, self._answers

    def passed(self, entries: list[StreamItem], answers: list[StreamItem]) -> None:
        """What was read."""
        self._entries = entries[-1].id if entries else self._entries
        self._answers = answers[-1].id if answers else self._answers


class RedisWay:
    """Follows the feed through Redis for as long as `run` runs, whatever happens to Redis."""

    def __init__(self, links: RedisLinks, follower: Follower, *, mac_keys: tuple[bytes, ...], clock: Clock) -> None:
        self.answered_at: BootTime | None = None  # when the newest counting answer came this way
        self.forged = 0  # what failed its check so far
        self.last_fault = ""  # until Redis answers again
        self._links = links
        self._follower = follower
        self._mac_keys = mac_keys
        self._clock = clock
        self._began_at: BootTime | None = None
        self._answers = answers_key(follower.instance)
        self._place = ReadingPlace()

    async def run(self) -> None:
        """Until cancelled."""
        self._began_at = self._clock.boot()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._links.tail.run)
            nursery.start_soon(self._links.asks.run)
            nursery.start_soon(self._tail)
            nursery.start_soon(self._ask)

    def silence(self) -> Seconds:
        """Seconds since Redis last brought an answer that counts, or since it was first asked; before that 0."""
        since = self._began_at if self.answered_at is None else self.answered_at
        return Seconds(0.0 if since is None else self._clock.boot() - since)

    async def _tail(self) -> None:
        while True:
            await self._links.tail.wait_up()
            try:
                await self._read()
            except RedisFault as fault:
                await self._suffer(fault)

    async def _suffer(self, fault: RedisFault) -> None:
        if fault.text != self.last_fault:
            _log.warning("redis_feed_failed", text=fault.text, detail=fault.detail)
        self.last_fault = fault.text
        await trio.sleep(AFTER_REFUSAL)

    async def _read(self) -> None:
        entries_after, answers_after = self._place.after(self._follower.position.seq, trio.current_time())
        after = {STREAM: entries_after, self._answers: answers_after}
        found = await self._links.tail.xread_blocking(after, block_ms=BLOCK_MS, count=COUNT)
        entries, answers = found.get(STREAM, []), found.get(self._answers, [])
        self._place.passed(entries, answers)
        self._follower.take_entries(self._genuine(entries))
        for item in answers:
            self._take_answer(item)

    def _genuine(self, items: list[StreamItem]) -> list[Entry]:
        genuine = []
        for item in items:
            try:
                genuine.append(unseal(item.fields.get(STREAM_FIELD, b""), self._mac_keys))
            except ForgedEntry as fault:
                self._count_forgery(item, fault.text)
        return genuine

    def _take_answer(self, item: StreamItem) -> None:
        try:
            answer = unseal_answer(item.fields.get(ANSWER_FIELD, b""), self._mac_keys)
        except ForgedMessage as fault:
            self._count_forgery(item, fault.text)
            return
        if self._follower.take_answer(answer):
            self.answered_at = self._clock.boot()
            self.last_fault = ""

    def _count_forgery(self, item: StreamItem, text: str) -> None:
        self.forged += 1
        if self.forged.bit_count() == 1:  # the 1st, 2nd, 4th, 8th …: a flood of forgeries is no flood of lines
            _log.error("redis_forgery", text=text, id=item.id.decode(errors="replace"), so_far=self.forged)

    async def _ask(self) -> None:
        while True:
            await self._links.asks.wait_up()
            rings = self._follower.applied.rings
            try:
                await self._write_question()
            except RedisFault as fault:
                await self._suffer(fault)
            await trio.sleep(ASK_NOT_BEFORE)
            with trio.move_on_after(ASK_EVERY):
                await self._follower.applied.wait_beyond(rings)

    async def _write_question(self) -> None:
        question = self._follower.ask()
        sealed = seal_question(question, self._mac_keys[0])
        node = question.node_id
        put = ("SET", question_key(node), sealed, "PX", QUESTION_LIFE_MS)
        raise_first_fault(await self._links.asks.execute_many([put, ("PUBLISH", ASKED, node)]))
