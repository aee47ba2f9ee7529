"""Signing each delivery once, and keeping the bytes before anybody sends them.

While one call to keep is under way, the next batch gathers: so a call of a few milliseconds bounds nothing. Ends are
signed before what is ordinary, and what only a poll may ask for comes last. What was kept before wins: two pushers,
or a pusher that died between keeping and sending, send the same bytes.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.pusher.calls import until_answered
from engine.pusher.lease import Tenure
from engine.pusher.service import Delivery, Lane, PushService, Signed
from engine.pusher.service_calls import MAX_COMPACT
from engine.telemetry import logs, pusher_metrics

BATCH: Final = 256  # signed at once: 10 ms, in which nothing else goes on; an event to 200 receivers is one
REMEMBERED: Final = 8_192  # of what was kept last: whoever asks a little later need not sign again
POLL: Final = len(Lane)  # the place behind all lanes
PAGE: Final = 256
BULK_PAGE: Final = 64  # signed and kept in some ten milliseconds

_log = logs.logger("pusher")


class CannotSign(Fault):
    """No event can be made of this delivery for its receiver: a fault of ours, told to people."""

    kind = Kind.BROKEN


class Gone(Fault):
    """The outbox does not have this delivery any more."""

    kind = Kind.NOT_FOUND


class _Order:
    """One delivery to be signed, for all who wait for it."""

    __slots__ = ("compact", "delivery", "done", "fault", "place")

    def __init__(self, delivery: Delivery, place: int) -> None:
        self.delivery = delivery
        self.place = place
        self.done = trio.Event()
        self.compact = b""
        self.fault: Fault | None = None


class Signing:
    """make: signs a delivery; raises a Fault where that cannot be done. One task runs it, anybody may ask."""

    def __init__(self, service: PushService, tenure: Tenure, make: Callable[[Delivery], bytes]) -> None:
        self._service = service
        self._tenure = tenure
        self._make = make
        self._lines: tuple[deque[_Order], ...] = tuple(deque() for _ in range(POLL + 1))
        self._orders: dict[int, _Order] = {}
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._some = trio.Event()
        self.signed_count = 0

    async def signed(self, delivery: Delivery) -> bytes:
        """The bytes that are kept for it. Raises CannotSign, Gone."""
        if delivery.signed is not None:
            return delivery.signed
        kept = self._kept.get(delivery.number)
        if kept is not None:
            return kept
        order = self._ordered(delivery, int(delivery.lane))
        await order.done.wait()
        if order.fault is not None:
            raise order.fault
        return order.compact

    def _ordered(self, delivery: Delivery, place: int) -> _Order:
        order = self._orders.get(delivery.number)
        if order is None:
            order = self._orders[delivery.number] = _Order(delivery, place)
        elif place >= order.place:
            return order
        order.place = place
        self._lines[place].append(order)
        self._some.set()
        return order

    async def run(self) -> None:
        """Sign and keep, for ever. Raises LeaseLost."""
        while True:
            batch = self._batch()
            if not batch:
                self._some = trio.Event()
                await self._some.wait()
                continue
            fresh = [signed for order in batch if (signed := self._sign(order)) is not None]
            if fresh:
                await self._keep(fresh)
                for _ in range(2):  # a round of tasks goes in any order: after two, what was kept has gone out
                    await trio.lowlevel.checkpoint()

    def _batch(self) -> list[_Order]:
        batch: list[_Order] = []
        for place, line in enumerate(self._lines):
            while line and len(batch) < BATCH:
                order = line.popleft()
                if order.place == place and not order.done.is_set():  # else another line has it
                    batch.append(order)
        return batch

    def _sign(self, order: _Order) -> Signed | None:
        number = order.delivery.number
        try:
            return Signed(number, _bounded(self._make(order.delivery)))
        except Exception as error:  # one that cannot be signed must not stop the others
            detail, exc_info = (error.detail, None) if isinstance(error, Fault) else (repr(error), error)
            _log.critical("cannot_sign", number=number, jti=order.delivery.jti, detail=detail, exc_info=exc_info)
            self._finish(number, b"", CannotSign("this delivery cannot be signed", detail=str(error)))
            return None

    async def _keep(self, fresh: list[Signed]) -> None:
        keep = partial(self._service.keep, self._tenure.epoch, fresh)
        standing = {one.number: one.compact for one in await until_answered("keep", keep)}
        self.signed_count += len(fresh)
        pusher_metrics.SIGNED.inc(len(fresh))
        for one in fresh:
            compact = standing.get(one.number)
            if compact is None:
                self._finish(one.number, b"", Gone("the outbox does not have this delivery any more"))
            else:
                self._kept[one.number] = compact
                self._finish(one.number, compact, None)
        while len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)

    def _finish(self, number: int, compact: bytes, fault: Fault | None) -> None:
        order = self._orders.pop(number)
        order.compact, order.fault = compact, fault
        order.done.set()

    async def follow_unsigned(self, wait: Seconds) -> None:
        """Sign what only a poll may ask for, and whatever else nobody pushes soon; for ever."""
        after = 0
        while True:
            after, _ = await self._sign_page(partial(self._service.unsigned, after, PAGE, wait), after)

    async def follow_bulk(self, wait: Seconds, rate: float) -> None:
        """The same of the bulk lane, so many a second: signing and keeping must delay nobody either; for ever."""
        after = 0
        while True:
            ask = partial(self._service.unsigned, after, BULK_PAGE, wait, bulk=True)
            after, signed = await self._sign_page(ask, after)
            await trio.sleep(signed / rate)

    async def _sign_page(self, ask: Callable[[], Awaitable[Sequence[Delivery]]], after: int) -> tuple[int, int]:
        """Up to which number, and how many."""
        page = await until_answered("unsigned", ask)
        orders = [self._ordered(one, POLL) for one in page if one.number not in self._kept]
        for order in orders:
            await order.done.wait()
        return (page[-1].number, len(page)) if page else (after, 0)


def _bounded(compact: bytes) -> bytes:
    """Raises CannotSign: a longer one is kept by nobody, and the call to keep it would be refused for ever."""
    if len(compact) > MAX_COMPACT:
        raise CannotSign("the set is too long", detail=f"{len(compact)} bytes")
    return compact
