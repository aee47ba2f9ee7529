"""A set that is longer than anybody takes is parked, and stops no other."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it

from collections.abc import Sequence
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from engine.feed.https import FeedBroken
from engine.pusher.lease import Tenure
from engine.pusher.service import Delivery, PushService, Signed
from engine.pusher.service_calls import MAX_COMPACT
from engine.pusher.signing import CannotSign, Signing
from tests.support.deliveries import ended
from tests.support.push_service import MemoryPushService


class Strict:
    """As the service is: a call with a set that is too long is refused as a whole, each time."""

    epoch = 1

    async def keep(self, _epoch: int, signed: Sequence[Signed]) -> Sequence[Signed]:
        await trio.sleep(0.01)
        if any(len(one.compact) > MAX_COMPACT for one in signed):
            raise FeedBroken("the feed service did not understand us")
        return signed


async def test_others_are_signed_beside_one_that_is_too_long(
    service: MemoryPushService, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    [long], [longest], [other] = (service.commit(ended(number, "edp-1"), "edp-1") for number in range(3))
    sizes = {long.number: MAX_COMPACT + 1, longest.number: MAX_COMPACT, other.number: 7}

    def make(delivery: Delivery) -> bytes:
        return b"x" * sizes[delivery.number]

    strict = Strict()
    signing = Signing(cast("PushService", strict), cast("Tenure", strict), make)
    kept: list[bytes] = []

    async def sign(delivery: Delivery) -> None:
        kept.append(await signing.signed(delivery))

    nursery.start_soon(sign, longest)
    nursery.start_soon(sign, other)
    nursery.start_soon(signing.run)
    with trio.fail_after(60):
        with pytest.raises(CannotSign):
            await signing.signed(long)
        await trio.sleep(1)
    assert sorted(map(len, kept)) == [7, MAX_COMPACT]
