"""What becomes of a push that was answered, or was not: the transmitter's table. Pure: time and jitter are passed in.

Two schedules: ends and narrowings are tried 27 times within 20.9 hours, everything else 9 times within 15.7 hours.
What is still not taken then is *parked*: the receiver gets it by poll. What only a person can mend is parked at once.
"""

import enum
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from engine.clock import Seconds
from engine.pusher.service import Fate, Lane

_HOUR: Final = 3_600.0
ENDS_WAITS: Final = (5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, *[_HOUR] * 20)  # 27 attempts
ORDINARY_WAITS: Final = (30.0, 120.0, 600.0, 1_800.0, _HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR)  # 9 attempts
KEY_WAITS: Final = (300.0, 900.0, _HOUR)  # the receiver may be fetching keys anew: the one 400 that is tried again
DENIED_WAITS: Final = (15.0,)  # once more, with our credentials read anew
SPREAD: Final = 0.2  # a wait lies within so much of the table's, on either side
# What is older is left to the listings, as by poll: receivers remember ids for so long, keys stand a day longer.
PUSHED_FOR: Final = Seconds(7 * 86_400.0)
LONGEST_RETRY_AFTER: Final = Seconds(_HOUR)
_AGAIN: Final = frozenset((408, 425, 429))
_SECONDS: Final = re.compile(r"[0-9]+")


class Trouble(enum.StrEnum):
    """Why there was no answer at all. All of these are tried again; the value is the outcome's `error`."""

    NAME = "name"  # does not resolve
    ADDRESS = "address"  # resolves to an address that nobody outside may have: a security event
    CONNECT = "connect"
    TLS = "tls"
    CERTIFICATE = "certificate"  # not one that the directory has registered: a security event
    TIMEOUT = "timeout"
    BROKEN = "broken"  # the connection ended early, or what came is not HTTP/1.1
    URL = "url"  # not one that we call: cannot come out of the directory


class Reply(msgspec.Struct, frozen=True):
    """An HTTP answer. err: of RFC 8935 section 2.3, where a 400 carries one. retry_after: the field's text."""

    status: int
    err: str = ""
    retry_after: str = ""


class Alarm(enum.StrEnum):
    """Who should hear of an attempt, beyond the counts."""

    ODD_SUCCESS = "odd_success"  # 200 or 204 where 202 is the answer: once for each receiver
    PARKED = "parked"  # somebody must look; push resumes after a good verification
    GONE = "gone"  # 410 to an end: a person must act now
    WRONG_AUDIENCE = "wrong_audience"  # our routing is wrong, or theirs: a security event
    UNVERIFIED = "unverified"  # the verification's state was not theirs


class Judgement(msgspec.Struct, frozen=True):
    """What to do about one delivery now. wait: seconds, with AGAIN. refusals: to pass in the next time."""

    fate: Fate
    error: str = ""
    wait: Seconds = Seconds(0.0)
    alarm: Alarm | None = None
    refusals: int = 0


class Attempt(msgspec.Struct, frozen=True):
    """One attempt that has been made. number: 1 is the first.

    refusals: how many attempts before it were refused for our key or credentials, since this pusher has worked on it.
    at: seconds since 1970, for a `Retry-After` that names a date. jitter: in [0, 1).
    """

    lane: Lane
    number: int
    result: Reply | Trouble
    at: float
    jitter: float
    refusals: int = 0


def judge(attempt: Attempt) -> Judgement:
    """RFC 8935 section 2, the transmitter's rules of the push profile, and the retry strategy for webhooks."""
    result = attempt.result
    if isinstance(result, Trouble):
        return _again(attempt, result.value)
    if result.status == 202:
        return Judgement(Fate.DONE)
    if result.status in (200, 204):
        return Judgement(Fate.DONE, alarm=Alarm.ODD_SUCCESS)
    if result.status >= 500 or result.status in _AGAIN:
        return _again(attempt, f"http_{result.status}", _retry_after(result.retry_after, attempt.at))
    if result.status == 400 and result.err:
        return _refused(attempt, result.err)
    gone = result.status == 410 and attempt.lane is Lane.ENDS
    return Judgement(Fate.PARKED, f"http_{result.status}", alarm=Alarm.GONE if gone else Alarm.PARKED)


def is_of_receiver(result: Reply | Trouble) -> bool:
    """Whether an attempt failed in a way that others to the same receiver would: what its circuit counts."""
    return isinstance(result, Trouble) or result.status >= 500 or result.status in _AGAIN


def waits_of(lane: Lane) -> tuple[float, ...]:
    """Seconds between attempts, before jitter."""
    return ENDS_WAITS if lane is Lane.ENDS else ORDINARY_WAITS


def length_of(lane: Lane) -> Seconds:
    """From the first attempt to the last, before jitter: 20.9 hours for ends, 15.7 for everything else.

    What has not even been tried for so long, because its receiver was down before it, is parked like what was.
    """
    return Seconds(sum(waits_of(lane)))


def longest_wait(lane: Lane) -> Seconds:
    """No attempt of this lane is put off for longer: what is was put off by a clock that was ahead.

    With twice the spread, so that a clock that is set back by a few seconds brings nothing forward.
    """
    return Seconds(max(*waits_of(lane), *KEY_WAITS, *DENIED_WAITS, LONGEST_RETRY_AFTER) * (1 + 2 * SPREAD))


def _refused(attempt: Attempt, err: str) -> Judgement:
    """The `err` of a 400."""
    if err in ("invalid_key", "authentication_failed"):
        return _refused_for_now(attempt, err, KEY_WAITS)
    if err == "access_denied":
        return _refused_for_now(attempt, err, DENIED_WAITS)
    alarms = {"invalid_audience": Alarm.WRONG_AUDIENCE, "invalid_state": Alarm.UNVERIFIED}
    return Judgement(Fate.PARKED, _word(err), alarm=alarms.get(err, Alarm.PARKED))


def _refused_for_now(attempt: Attempt, err: str, waits: tuple[float, ...]) -> Judgement:
    if attempt.refusals >= len(waits):
        return Judgement(Fate.PARKED, err, alarm=Alarm.PARKED)
    wait = _spread(waits[attempt.refusals], attempt.jitter)
    return Judgement(Fate.AGAIN, err, wait, refusals=attempt.refusals + 1)


def _again(attempt: Attempt, error: str, at_least: float = 0.0) -> Judgement:
    waits = waits_of(attempt.lane)
    if attempt.number > len(waits):
        return Judgement(Fate.PARKED, error, alarm=Alarm.PARKED)
    wait = max(_spread(waits[attempt.number - 1], attempt.jitter), at_least)
    return Judgement(Fate.AGAIN, error, Seconds(wait), refusals=attempt.refusals)


def _spread(wait: float, jitter: float) -> Seconds:
    return Seconds(wait * (1 - SPREAD + 2 * SPREAD * jitter))


def _retry_after(text: str, now: float) -> float:
    """Seconds; RFC 9110 sections 10.2.3 and 5.6.7. What cannot be read asks for nothing."""
    if _SECONDS.fullmatch(text):
        return min(float(text), LONGEST_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    in_utc = at.replace(tzinfo=UTC) if at.tzinfo is None else at  # asctime's form names no zone
    return min(max(in_utc.timestamp() - now, 0.0), LONGEST_RETRY_AFTER)


_KNOWN: Final = frozenset(("invalid_request", "invalid_issuer", "invalid_audience", "invalid_state"))


def _word(err: str) -> str:
    """What the receiver wrote is text of others: only words that we know go into logs and tables."""
    return err if err in _KNOWN else "unknown_err"
