"""The transmitter's table, row by row (push profile sections 2 and 7, retry strategy section 8)."""

import os
import time
from collections.abc import Iterator

import pytest

from engine.pusher.schedule import (
    ENDS_WAITS,
    ORDINARY_WAITS,
    Alarm,
    Attempt,
    Judgement,
    Reply,
    Trouble,
    is_of_receiver,
    judge,
    length_of,
)
from engine.pusher.service import Fate, Lane

AT = 1_795_341_600.0
MIDDLE = 0.5  # no jitter


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """On a machine whose local time is not UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "JST-9"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def tried(
    result: Reply | Trouble, lane: Lane = Lane.ENDS, number: int = 1, *, refusals: int = 0, jitter: float = MIDDLE
) -> Judgement:
    return judge(Attempt(lane, number, result, AT, jitter, refusals))


def waits(result: Reply | Trouble, lane: Lane) -> list[float]:
    """What is waited between attempts until it is parked."""
    found: list[float] = []
    refusals = 0
    while (judged := tried(result, lane, len(found) + 1, refusals=refusals)).fate is Fate.AGAIN:
        found.append(judged.wait)
        refusals = judged.refusals
    assert judged.fate is Fate.PARKED
    assert judged.alarm is Alarm.PARKED
    return found


def test_ends_are_tried_27_times_in_20_9_hours() -> None:
    found = waits(Reply(503), Lane.ENDS)
    assert found == pytest.approx([5, 15, 60, 300, 900, 1_800, *[3_600] * 20])
    assert len(found) + 1 == 27
    assert sum(found) / 3_600 == pytest.approx(20.9, abs=0.05)


@pytest.mark.parametrize("lane", [Lane.ORDINARY, Lane.BULK])
def test_ordinary_events_are_tried_9_times_in_15_7_hours(lane: Lane) -> None:
    found = waits(Trouble.TIMEOUT, lane)
    assert found == pytest.approx([30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800])
    assert len(found) + 1 == 9
    assert sum(found) / 3_600 == pytest.approx(15.7, abs=0.05)


@pytest.mark.parametrize(("jitter", "factor"), [(0.0, 0.8), (0.5, 1.0), (0.999999, 1.2)])
def test_every_wait_is_spread_by_a_fifth(jitter: float, factor: float) -> None:
    for lane, table in ((Lane.ENDS, ENDS_WAITS), (Lane.ORDINARY, ORDINARY_WAITS)):
        for number, wait in enumerate(table, 1):
            judged = tried(Reply(500), lane, number, jitter=jitter)
            assert judged.wait == pytest.approx(wait * factor, rel=1e-5)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_statuses_that_may_pass_are_tried_again(status: int) -> None:
    assert tried(Reply(status)) == Judgement(Fate.AGAIN, f"http_{status}", ENDS_WAITS[0])
    assert is_of_receiver(Reply(status))


@pytest.mark.parametrize("trouble", list(Trouble))
def test_no_answer_is_tried_again(trouble: Trouble) -> None:
    assert tried(trouble) == Judgement(Fate.AGAIN, trouble.value, ENDS_WAITS[0])
    assert is_of_receiver(trouble)


def test_202_is_done() -> None:
    assert tried(Reply(202)) == Judgement(Fate.DONE)


@pytest.mark.parametrize("status", [200, 204])
def test_other_successes_are_done_with_a_warning(status: int) -> None:
    assert tried(Reply(status)) == Judgement(Fate.DONE, alarm=Alarm.ODD_SUCCESS)


@pytest.mark.parametrize("status", [201, 301, 302, 307, 308, 400, 401, 403, 404, 405, 413, 415, 422])
def test_other_answers_are_parked_at_once(status: int) -> None:
    assert tried(Reply(status)) == Judgement(Fate.PARKED, f"http_{status}", alarm=Alarm.PARKED)
    assert not is_of_receiver(Reply(status))


def test_gone_alerts_a_human_where_an_end_could_not_be_told() -> None:
    assert tried(Reply(410), Lane.ENDS).alarm is Alarm.GONE
    assert tried(Reply(410), Lane.ORDINARY) == Judgement(Fate.PARKED, "http_410", alarm=Alarm.PARKED)


@pytest.mark.parametrize(
    ("err", "alarm"),
    [
        ("invalid_request", Alarm.PARKED),
        ("invalid_issuer", Alarm.PARKED),
        ("invalid_audience", Alarm.WRONG_AUDIENCE),
        ("invalid_state", Alarm.UNVERIFIED),
    ],
)
def test_what_the_receiver_refuses_for_good_is_parked(err: str, alarm: Alarm) -> None:
    assert tried(Reply(400, err)) == Judgement(Fate.PARKED, err, alarm=alarm)


def test_an_unknown_word_of_the_receivers_goes_nowhere() -> None:
    assert tried(Reply(400, "<script>")) == Judgement(Fate.PARKED, "unknown_err", alarm=Alarm.PARKED)


@pytest.mark.parametrize("err", ["invalid_key", "authentication_failed"])
@pytest.mark.parametrize("lane", list(Lane))
def test_a_refused_key_is_tried_again_after_5_15_and_60_minutes(err: str, lane: Lane) -> None:
    assert waits(Reply(400, err), lane) == pytest.approx([300, 900, 3_600])


def test_denied_access_is_tried_once_more() -> None:
    assert waits(Reply(400, "access_denied"), Lane.ENDS) == pytest.approx([15])


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("7", 7.0),
        ("2", 5.0),  # not sooner than the table
        ("3600", 3_600.0),
        ("86400", 3_600.0),  # an hour at most
        ("9" * 64, 3_600.0),
        ("Sun, 22 Nov 2026 10:01:00 GMT", 60.0),
        ("Sunday, 22-Nov-26 10:01:00 GMT", 60.0),  # of RFC 850
        ("Sun Nov 22 10:01:00 2026", 60.0),  # of C's asctime(): it is UTC, and does not say so
        ("Sun, 22 Nov 2026 09:00:00 GMT", 5.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3_600.0),
        ("soon", 5.0),
        ("-5", 5.0),
    ],
)
def test_retry_after_is_honoured_up_to_an_hour(text: str, wait: float) -> None:
    assert tried(Reply(429, retry_after=text)).wait == pytest.approx(wait)


def test_a_schedule_lasts_as_long_as_the_profile_says() -> None:
    assert round(length_of(Lane.ENDS) / 3_600, 1) == 20.9
    assert round(length_of(Lane.ORDINARY) / 3_600, 1) == round(length_of(Lane.BULK) / 3_600, 1) == 15.7
