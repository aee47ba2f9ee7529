"""Poll delivery (RFC 8936) on the machine listener: a receiver fetches its events, and acknowledges them here.

Events stay until they are acknowledged here, whatever became of them by push: who answered 202 and then lost its disk
heals by poll.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, Protocol

import trio
from quart import Blueprint, Response, request

from admin.directory.stream_forms import MAX_BODY, PollForm, SetsView, read_poll
from admin.directory.stream_service import Streams
from admin.directory.stream_views import Receivers
from admin.directory.streams import UnknownStream
from admin.edge import answer, json_text
from admin.ledger.polling import Polled
from admin.ledger.signal import Signal
from admin.openapi import operation
from engine.clock import Seconds
from engine.consent.reading import InvalidFields, Problem, strict_json
from engine.consent.records import ClientId
from engine.errors import Fault, Kind
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from engine.telemetry.logs import logger

CEILING: Final = Seconds(30.0)  # revocation-push, section 3; clients give up after 45
LOOK_EVERY: Final = Seconds(1.0)  # for what another instance of the application was brought
PACE: Final = Seconds(0.05)  # between two looks, however often it rings: while sets are signed it never stops
HELD: Final = CEILING  # a killed process holds up its receiver no longer; who still waits then only gets the same sets
GIVING_BACK: Final = Seconds(2.0)
MAX_EVENTS: Final = 500  # sets in one answer, about half a megabyte

Again = Callable[[], Awaitable[StreamRecord]]  # the stream as it is by now; raises where it may not be polled any more

_CODES: Final = frozenset(  # RFC 8935, section 2.4
    ("invalid_request", "invalid_key", "invalid_issuer", "invalid_audience", "authentication_failed", "access_denied")
)

_log = logger("admin.poll")


class PollOutstanding(Fault):
    """Another poll of this stream waits: two that wait would get the same events."""

    kind = Kind.CONFLICT


class Queue(Protocol):
    """Where the events of poll streams stand. signed: rings when there may be more."""

    @property
    def signed(self) -> Signal: ...

    async def poll(
        self, client_id: ClientId, ack: Collection[str], errors: Mapping[str, str], max_events: int
    ) -> Polled:
        """Take acknowledgements and errors, then give the oldest events that are left."""

    async def about_stream(self, client_id: ClientId, stream_id: str, max_events: int) -> Polled:
        """Only the events about the stream itself."""

    async def with_open(self, client_ids: Collection[ClientId]) -> Collection[ClientId]:
        """Those of them that `poll` would give something now."""

    async def begin_poll(self, stream_id: str, holder: str, seconds: Seconds) -> bool:
        """The right to poll a stream, over all instances of the application; False: another has it."""

    async def end_poll(self, stream_id: str, holder: str) -> None:
        """Give it back."""


class Waiter:
    """A poll that waits. bell: rings when it is to look for itself."""

    def __init__(self, client_id: ClientId) -> None:
        self.client_id = client_id
        self.bell = trio.Event()


class Waiters:
    """The polls that wait in this process. One of them looks for all, and wakes whom there is something for.

    Whoever is there first leads; when it goes, another is woken to do so.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._waiting: set[Waiter] = set()
        self._leader: Waiter | None = None
        self._ringing = trio.Event()  # as of just before the newest look that came to its end …
        self._looked = -math.inf  # … and when it began

    @contextmanager
    def join(self, client_id: ClientId) -> Iterator[Waiter]:
        """From before its own look, so that what comes in the middle of that is not missed."""
        waiter = Waiter(client_id)
        self._waiting.add(waiter)
        try:
            yield waiter
        finally:
            self._waiting.remove(waiter)
            if self._leader is None and self._waiting:
                next(iter(self._waiting)).bell.set()

    async def wait(self, waiter: Waiter) -> None:
        """Return when this waiter is to look for itself."""
        if self._leader is not None:
            await waiter.bell.wait()
            return
        self._leader = waiter
        try:
            while not waiter.bell.is_set():
                await self._look()
        finally:
            self._leader = None

    async def _look(self) -> None:
        """When it rings, or when it is time again. A fault is for each to meet by itself."""
        with trio.move_on_at(self._looked + LOOK_EVERY):
            await self._ringing.wait()
        await trio.sleep_until(self._looked + PACE)
        ringing, begun, waiting = self._queue.signed.next_ring(), trio.current_time(), list(self._waiting)
        try:
            found = set(await self._queue.with_open({waiter.client_id for waiter in waiting}))
        except Fault:
            found = {waiter.client_id for waiter in waiting}
        self._ringing, self._looked = ringing, begun
        for waiter in waiting:
            if waiter.client_id in found:
                waiter.bell.set()


class Polls:
    """The polls that wait: one for each stream, in all instances together. draw: a name that nobody else has."""

    def __init__(self, queue: Queue, draw: Callable[[], str]) -> None:
        self._queue = queue
        self._draw = draw
        self._waiters = Waiters(queue)

    async def poll(self, stream: StreamRecord, form: PollForm, again: Again) -> Polled:
        """Answer one poll; what it acknowledges is taken whatever comes of the rest.

        Raises PollOutstanding, and what `again` does, which is asked before events are handed out.
        """
        errors = {jti: error.err for jti, error in form.set_errs.items()}
        if errors:
            _log.warning("sets_refused", client_id=stream.client_id, codes=_known(errors.values()), sets=len(errors))
        nothing = await self._queue.poll(stream.client_id, form.ack, errors, 0)
        if form.max_events == 0:
            return nothing
        async with self._only_one(stream.stream_id):
            return await self._wait(stream, form, again)

    async def _wait(self, stream: StreamRecord, form: PollForm, again: Again) -> Polled:
        """Events once there are some; none at once or after CEILING."""
        deadline = trio.current_time() + (0.0 if form.return_immediately else CEILING)
        if stream.status is StreamStatus.ENABLED:
            polled = await self._events(stream, form, deadline, again)
            if polled is not None:
                return polled
        return await self._about(stream, form, deadline, again)

    async def _events(self, stream: StreamRecord, form: PollForm, deadline: float, again: Again) -> Polled | None:
        """Of a stream that is enabled. None: there are some, and it was paused or disabled since the poll came."""
        with self._waiters.join(stream.client_id) as waiter:
            while True:
                waiter.bell = trio.Event()
                polled = await self._queue.poll(stream.client_id, (), {}, min(form.max_events, MAX_EVENTS))
                if polled.sets and (await again()).status is not StreamStatus.ENABLED:
                    return None
                if polled.sets or trio.current_time() >= deadline:
                    return polled
                with trio.move_on_at(deadline):
                    await self._waiters.wait(waiter)

    async def _about(self, stream: StreamRecord, form: PollForm, deadline: float, again: Again) -> Polled:
        """Of a stream that is paused or disabled: that it is, at once; at the end of the wait, that it is enabled."""
        limit = min(form.max_events, MAX_EVENTS)
        polled = await self._queue.about_stream(stream.client_id, stream.stream_id, limit)
        if polled.sets:
            return polled
        await trio.sleep_until(deadline)
        polled = await self._queue.about_stream(stream.client_id, stream.stream_id, limit)
        if polled.sets:
            await again()
        return polled

    @asynccontextmanager
    async def _only_one(self, stream_id: str) -> AsyncIterator[None]:
        holder = self._draw()
        if not await self._queue.begin_poll(stream_id, holder, HELD):
            raise PollOutstanding("another poll of this stream is waiting")
        try:
            yield
        finally:
            in_time = trio.CancelScope(shield=True, deadline=trio.current_time() + GIVING_BACK)
            with in_time, suppress(Fault):  # it ends by itself otherwise
                await self._queue.end_poll(stream_id, holder)


def _known(codes: Iterable[str]) -> list[str]:
    """For the log, whose words and length are not the receiver's to choose."""
    return sorted({code if code in _CODES else "other" for code in codes})


def poll_views(streams: Streams, receivers: Receivers, polls: Polls) -> Blueprint:
    """Blueprint with the poll endpoint."""
    views = Blueprint("poll", __name__)

    @views.post("/ssf/poll/<stream_id>")
    @operation(answers={200: SetsView}, body=PollForm, problems=(404, 409))
    async def poll(stream_id: str) -> Response:
        """Fetch and acknowledge events (RFC 8936).

        Waits up to thirty seconds for the first event unless `returnImmediately` says otherwise; with `maxEvents` 0 it
        only acknowledges, and never waits. Events that were not acknowledged come again. Of a stream that is paused or
        disabled only the events about itself come.
        """

        async def still() -> StreamRecord:
            return await streams.find((await receivers.calling()).client_id, stream_id)

        stream = await still()
        if stream.delivery is not DeliveryMethod.POLL:
            raise UnknownStream("you have no such stream")
        form = read_poll(strict_json(await json_text(MAX_BODY), max_bytes=MAX_BODY))
        if form.set_errs and not request.headers.get("Content-Language"):
            raise InvalidFields([Problem("setErrs", "needs a Content-Language header beside it")])
        polled = await polls.poll(stream, form, still)
        return answer(SetsView(polled.sets, polled.more))

    return views
