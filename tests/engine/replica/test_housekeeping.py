"""Forgetting waits until the wall clock has proved itself."""

from pathlib import Path

import pytest
import trio
import trio.testing

from engine.clock import BootTime, UnixTime
from engine.consent.states import State
from engine.feed.redis_commands import StreamItem
from engine.replica.housekeeping import EVERY, STEADY_FOR, STEADY_WITHIN, SteadyWall, keep_house
from engine.replica.over_redis import READ_ANEW_EVERY, ReadingPlace
from engine.replica.reader import view_of
from tests.support.replicas import NOW, consent, consent_entry, consent_key, filled, open_store


def test_a_wall_clock_is_steady_after_a_while() -> None:
    wall = SteadyWall()
    assert not wall.steady(NOW, BootTime(10.0))
    assert not wall.steady(UnixTime(NOW + 100), BootTime(110.0))
    assert wall.steady(UnixTime(int(NOW + STEADY_FOR)), BootTime(10.0 + STEADY_FOR))


def test_a_wall_clock_that_is_set_waits_anew() -> None:
    wall = SteadyWall()
    wall.steady(UnixTime(0), BootTime(10.0))
    assert not wall.steady(NOW, BootTime(10.0 + STEADY_FOR))
    assert not wall.steady(UnixTime(NOW + 1), BootTime(11.0 + STEADY_FOR))
    assert wall.steady(UnixTime(int(NOW + STEADY_FOR)), BootTime(10.0 + 2 * STEADY_FOR))


def test_a_wall_clock_that_is_slewed_a_little_stays_steady() -> None:
    wall = SteadyWall()
    wall.steady(NOW, BootTime(0.0))
    assert wall.steady(UnixTime(int(NOW + STEADY_FOR + STEADY_WITHIN - 1)), BootTime(STEADY_FOR))


class VirtualClock:
    """Both clocks run with trio's."""

    def now(self) -> UnixTime:
        return UnixTime(int(NOW + trio.current_time()))

    def boot(self) -> BootTime:
        return BootTime(trio.current_time())


async def test_the_house_is_kept_once_the_clock_is_steady(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Turns come at 0, EVERY, 2 EVERY …; the first at or after STEADY_FOR is the first to forget anything."""
    assert autojump_clock.autojump_threshold == 0
    over = consent(State.REVOKED, expires_at=0)
    store = filled(open_store(tmp_path), [consent_entry(1, 1, over), consent_entry(2, 2)])

    def left() -> list[bool]:
        assert store.environment is not None
        with view_of(store.environment) as view:
            return [view.consent(consent_key(n)) is not None for n in (1, 2)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_house, store, VirtualClock())
        await trio.sleep(STEADY_FOR - EVERY)
        assert left() == [True, True]
        await trio.sleep(3 * EVERY)
        assert left() == [False, True]
        nursery.cancel_scope.cancel()
    store.close()


def item(item_id: bytes) -> StreamItem:
    return StreamItem(item_id, {})


def test_reading_goes_on_behind_what_was_read() -> None:
    place = ReadingPlace()
    assert place.after(7, 0.0) == (b"7-0", b"0-0")
    place.passed([item(b"8-0"), item(b"9-0")], [])
    assert place.after(7, 0.1) == (b"9-0", b"0-0")
    place.passed([], [item(b"55-1")])
    assert place.after(9, 0.2) == (b"9-0", b"55-1")


@pytest.mark.parametrize("applied", [3, 12])
def test_reading_begins_anew_at_what_is_applied_from_time_to_time(applied: int) -> None:
    place = ReadingPlace()
    place.after(7, 0.0)
    place.passed([item(b"99-0")], [item(b"55-1")])
    assert place.after(applied, READ_ANEW_EVERY) == (b"%d-0" % applied, b"0-0")
