"""What heartbeats name as the newest event."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it

import base64
import json

import msgspec
import trio
from trio.testing import MockClock

from engine.pusher.service import Lane
from tests.support.deliveries import ended
from tests.support.push_service import MemoryPushService
from tests.support.pushers import Receivers, pusher, until


async def test_an_older_event_of_a_slower_lane_takes_nothing_back(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Else a receiver whose push of the newest was lost would be told that it has everything."""
    service.enrol("edp-1")
    nursery.start_soon(pusher(service, receivers).run)
    await until(lambda: service.calls.get("fresh", 0) >= len(Lane))  # the roster, which tells a position too, is read
    [newest] = service.commit(ended(1, "edp-1"), "edp-1")
    await until(lambda: not service.pending)
    [later] = service.commit(ended(2, "edp-1"), "edp-1", lane=Lane.BULK)
    row = service.rows[later.number]
    row.delivery = msgspec.structs.replace(later, seq=newest.seq - 1, prev=newest.seq - 2)
    events = service.first_bytes.values()
    await until(lambda: not service.pending)
    await until(lambda: any(one.content not in events for one in receivers.pushed))
    beat = next(one.content for one in receivers.pushed if one.content not in events)
    claims = json.loads(base64.urlsafe_b64decode(beat.split(b".")[1] + b"=="))
    assert claims["ccs_last_seq"] == newest.seq
