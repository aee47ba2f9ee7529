"""When a guard asks, and what silence means: the clockwork alone, on times that are passed in."""

import pytest

from engine.clock import BootTime, Seconds
from engine.guard.watch import Limits, Standing, Watch, Why

T0 = 1_000.0


def at(seconds: float) -> BootTime:
    return BootTime(T0 + seconds)


@pytest.fixture
def watch() -> Watch:
    """Asked and told at T0."""
    watch = Watch(Limits())
    watch.told(10, at(0))
    watch.note(10, at(0), has_hole=False)
    watch.asked(at(0))
    return watch


def test_the_first_thing_is_to_ask() -> None:
    watch = Watch(Limits())
    when, why = watch.next_ask()
    assert (when < 0, why) == (True, Why.START)
    assert watch.standing(at(0)) is Standing.UNHEARD


def test_heartbeats_keep_it_whole_and_the_audit_comes_after_a_quarter_of_an_hour(watch: Watch) -> None:
    for minute in range(1, 16):
        assert watch.standing(at(minute * 60 - 1)) is Standing.WHOLE
        watch.told(10, at(minute * 60))
    assert watch.next_ask() == (at(900), Why.AUDIT)


def test_silence_of_three_minutes_makes_it_ask_and_then_each_minute(watch: Watch) -> None:
    assert watch.next_ask() == (at(180), Why.SILENCE)
    assert watch.standing(at(179.9)) is Standing.WHOLE
    assert watch.standing(at(180)) is Standing.UNHEARD
    watch.asked(at(180))  # by poll alone, without a listing
    assert watch.next_ask() == (at(240), Why.SILENCE)


def test_without_a_push_stream_the_listing_is_asked_in_time() -> None:
    watch = Watch(Limits(heartbeats=False))
    watch.told(10, at(0))
    watch.asked(at(0))
    assert watch.next_ask() == (at(90), Why.SILENCE)


def test_a_hole_waits_five_seconds_for_what_was_overtaken(watch: Watch) -> None:
    assert watch.note(10, at(20), has_hole=True)
    assert not watch.note(10, at(21), has_hole=True), "it is the same hole"
    assert watch.standing(at(20)) is Standing.MISSING
    assert watch.next_ask() == (at(25), Why.HOLE)
    watch.note(12, at(22), has_hole=False)
    assert watch.standing(at(22)) is Standing.WHOLE
    assert watch.next_ask() == (at(180), Why.SILENCE)


def test_a_heartbeat_can_tell_of_a_hole(watch: Watch) -> None:
    watch.told(11, at(60))
    assert watch.note(10, at(60), has_hole=False)
    assert watch.standing(at(60)) is Standing.MISSING
    assert watch.next_ask() == (at(65), Why.HOLE)
    watch.note(11, at(61), has_hole=False)
    assert watch.standing(at(61)) is Standing.WHOLE


def test_an_old_heartbeat_takes_nothing_back(watch: Watch) -> None:
    watch.told(12, at(1))
    watch.told(11, at(2))
    watch.note(11, at(2), has_hole=False)
    assert watch.standing(at(2)) is Standing.MISSING


def test_asking_in_vain_waits_longer_each_time(watch: Watch) -> None:
    waits = []
    for _ in range(9):
        watch.failed(at(200), 0.999, refused=False)
        waits.append(watch.next_ask()[0] - at(200))
    assert waits == sorted(waits)
    assert 0.9 < waits[0] < 1.1
    assert 59 < waits[-1] <= 60


def test_silence_in_an_outage_says_nothing(watch: Watch) -> None:
    """Else the fallback, which is for outages, would be gone after three minutes of one."""
    watch.failed(at(180), 0.5, refused=False)
    assert watch.standing(at(10_000)) is Standing.UNHEARD
    assert watch.standing(at(10_000), answered_at=at(179)) is Standing.UNHEARD


def test_silence_of_a_service_that_answers_otherwise_does(watch: Watch) -> None:
    watch.failed(at(180), 0.5, refused=False)
    assert watch.standing(at(200), answered_at=at(181)) is Standing.MISSING


def test_silence_of_a_service_that_refuses_does(watch: Watch) -> None:
    assert watch.standing(at(181), answered_at=at(181)) is Standing.UNHEARD, "it has not been asked yet"
    watch.failed(at(181), 0.5, refused=True)
    assert watch.standing(at(181)) is Standing.MISSING
    watch.told(10, at(190))
    watch.asked(at(190))
    assert watch.standing(at(190)) is Standing.WHOLE


def test_limits_are_settings() -> None:
    watch = Watch(Limits(Seconds(1.0), Seconds(20.0), Seconds(30.0)))
    watch.told(1, at(0))
    watch.asked(at(0))
    watch.note(0, at(0), has_hole=True)
    assert watch.next_ask() == (at(1), Why.HOLE)


def test_a_listing_that_took_long_does_not_undo_a_heartbeat_that_came_meanwhile(watch: Watch) -> None:
    watch.told(10, at(170))
    watch.told(10, at(60))  # asked for then
    assert watch.standing(at(300)) is Standing.WHOLE
    assert watch.standing(at(350)) is Standing.UNHEARD
