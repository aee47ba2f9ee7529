"""How pushing stands as a whole: counted from what each receiver is owed, and told to operators alone."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import trio

from admin.directory.pushing_views import view_of
from admin.ledger import push_lease
from admin.ledger.outbox_figures import OutboxFigures
from admin.ledger.push_lease import Holding
from admin.ledger.receiver_standing import Standing, Untold
from admin.ledger.store import LedgerUnavailable
from engine.clock import UnixTime
from engine.consent.records import ClientId, FallbackSuspension, Role
from engine.pusher.service import Fate, Lane, Outcome
from engine.pusher.service_calls import holder_named, pusher_named
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from tests.admin.directory.test_stream_views import POLL, confirmed, created, refused, told
from tests.support.admin_service import PATIENCE, Site

NOW = UnixTime(1_795_341_600)
ENABLED, PAUSED, DISABLED = StreamStatus
FIGURES = OutboxFigures(
    {Lane.ENDS: 3, Lane.ORDINARY: 0, Lane.BULK: 12_345},
    {Lane.ENDS: 61.9, Lane.ORDINARY: 0.0, Lane.BULK: 7_200.0},
    parked=4,
    unsigned=2,
    unfetched=9,
    lease=Holding("pusher-1/0123456789abcdef", NOW - 90.25),
    overdue=0.0,
)


def stream(status: StreamStatus = ENABLED, challenge: str = "") -> StreamRecord:
    return StreamRecord("s", ClientId("edp-1"), Role.EDP, DeliveryMethod.PUSH, status, challenge=challenge)


def standing(*streams: StreamRecord, **fields: Any) -> Standing:
    bare = Standing(ClientId("edp-1"), Role.EDP, False, 7, streams or (stream(),), 0, None, 0, 0, "")  # noqa: FBT003 - suspended
    return msgspec.structs.replace(bare, **fields)


def test_who_pushes_and_what_waits_in_each_lane() -> None:
    shown = msgspec.to_builtins(view_of(FIGURES, [], NOW))
    assert shown["as_of"] == "2026-11-22T10:00:00Z"
    assert shown["lease"] == {"pusher": "pusher-1", "since": "2026-11-22T09:58:29Z"}
    assert list(shown["lanes"]) == [
        {"lane": "ends", "unsent": 3, "oldest_seconds": 61},
        {"lane": "ordinary", "unsent": 0, "oldest_seconds": 0},
        {"lane": "bulk", "unsent": 12_345, "oldest_seconds": 7_200},
    ]
    assert (shown["parked"], shown["unsigned"]) == (4, 2)
    assert shown["receivers"] == {"well": 0, "behind": 0, "unreached": 0, "suspended": 0}
    assert shown["streams"] == {"enabled": 0, "not_confirmed": 0, "paused": 0, "disabled": 0}


def test_nobody_pushes_and_a_pusher_that_does_not_say_who_it_is() -> None:
    assert msgspec.to_builtins(view_of(msgspec.structs.replace(FIGURES, lease=None), [], NOW))["lease"] is None
    older = msgspec.structs.replace(FIGURES, lease=Holding("0123456789abcdef", NOW))
    assert msgspec.to_builtins(view_of(older, [], NOW))["lease"] == {"since": "2026-11-22T10:00:00Z"}


@pytest.mark.parametrize("pusher_id", ["pusher-1", "p" * 40])
def test_a_pusher_s_name_is_read_back_from_its_holder(pusher_id: str) -> None:
    holder = holder_named(pusher_id, b"12345678")
    assert (pusher_named(holder), len(holder) <= 64) == (pusher_id, True)


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (standing(), "well"),
        (standing(unsent=1, oldest_unsent=NOW - 600.0), "well"),
        (standing(unsent=1, oldest_unsent=NOW - 601.0), "behind"),
        (standing(untold=Untold(7, NOW - 3_601.0)), "behind"),
        (standing(stream(PAUSED), unsent=1, oldest_unsent=NOW - 9_000.0), "unreached"),
        (standing(stream(DISABLED), stream(ENABLED, "not answered")), "unreached"),
        (standing(stream(PAUSED), stream()), "well"),
        (standing(stream(PAUSED), suspended=True), "suspended"),
        (standing(parked=2), "well"),
    ],
)
def test_a_receiver_is_counted_once_by_the_worst_that_holds(one: Standing, state: str) -> None:
    shown = msgspec.to_builtins(view_of(FIGURES, [one], NOW))["receivers"]
    assert shown == dict.fromkeys(shown, 0) | {state: 1}


def test_streams_are_counted_by_state_and_troubles_beside_it() -> None:
    rests = FallbackSuspension(NOW, 7)
    first = standing(stream(), stream(PAUSED), parked=2)
    others = [standing(stream(DISABLED, "x"), parked=1, fallback_suspended=rests), standing(stream(DISABLED))]
    shown = msgspec.to_builtins(view_of(FIGURES, [first, *others], NOW))
    assert shown["streams"] == {"enabled": 1, "not_confirmed": 1, "paused": 1, "disabled": 1}
    assert (shown["receivers_with_parked"], shown["receivers_without_fallback"]) == (2, 1)


async def test_an_operator_sees_a_pusher_take_the_lease_and_what_it_has_left(site: Site) -> None:
    status, shown = await site.call("operator-1", "GET", "/pushing")
    assert (status, shown["lease"], [lane["unsent"] for lane in shown["lanes"]]) == (200, None, [0, 0, 0])
    await confirmed(site)
    await created(site, POLL)
    framework = await told(site, 2)
    lease = await site.outbox.lease(holder_named("pusher-7", b"12345678"), None)
    outcomes = [Outcome(one.number, Fate.DONE, 1, 0.0) for one in framework]
    outcomes[-1] = msgspec.structs.replace(outcomes[-1], fate=Fate.PARKED, error="http_404")
    await site.outbox.tell(lease.epoch, outcomes)
    await site.granted(1)
    with trio.fail_after(PATIENCE):
        while True:
            status, shown = await site.call("operator-1", "GET", "/pushing")
            if shown["lanes"][1]["unsent"]:
                break
            await trio.sleep(0.02)
    assert shown["lease"]["pusher"] == "pusher-7"
    assert shown["lease"]["since"] <= shown["as_of"]
    assert shown["lanes"][1]["unsent"] == shown["parked"] == shown["receivers_with_parked"] == 1
    assert (shown["receivers"]["well"], shown["streams"]["enabled"]) == (1, 2)
    await site.outbox.release(lease.epoch)
    assert (await site.call("operator-1", "GET", "/pushing"))[1]["lease"] is None


async def test_only_operators_see_it(site: Site) -> None:
    for client_id in ("edp-1", "atp-1", "node-1"):
        assert refused(await site.call(client_id, "GET", "/pushing")) == (403, "wrong_role")
    assert refused(await site.call("stranger-1", "GET", "/pushing")) == (401, "unknown_caller")


async def test_a_ledger_that_is_away_is_said_to_be(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await site.call("operator-1", "GET", "/pushing"))[0] == 200

    def away(_: object) -> None:
        raise LedgerUnavailable("the ledger's database does not answer")

    monkeypatch.setattr("admin.ledger.outbox_figures.holding", away)
    assert refused(await site.call("operator-1", "GET", "/pushing")) == (503, "ledger_unavailable")


@dataclass
class Moved:
    """A database's clock that a test sets."""

    now: float

    def __call__(self, _: object) -> float:
        return self.now


async def test_the_lease_is_held_until_it_runs_out_since_it_was_taken(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Moved(1_795_341_600.5)
    monkeypatch.setattr(push_lease, "database_time", clock)
    monkeypatch.setattr(site.outbox, "_lease_time", clock)

    async def held() -> Holding | None:
        return (await site.outbox.figures()).lease

    assert await held() is None
    lease = await site.outbox.lease("one", None)
    taken = Holding("one", 1_795_341_600.5)
    clock.now += 2.5
    assert await held() == taken
    await site.outbox.lease("one", lease.epoch)
    clock.now += 2.5
    assert await held() == taken  # renewed: since it was taken
    clock.now += 0.5
    assert await held() is None  # it ran out
    await site.outbox.lease("two", None)
    assert await held() == Holding("two", clock.now)
    clock.now -= 3_600
    assert await held() is None  # set back an hour: anybody may take it
    await site.outbox.lease("three", None)
    assert await held() == Holding("three", clock.now)  # never in the future, whatever the epoch says
