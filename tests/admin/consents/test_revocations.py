"""What the answer to an end says: since when, and which data is to be flagged."""

import msgspec
import pytest

from admin.consents.commands import invalidate, revoke
from admin.consents.forms import InvalidForm, RevokeForm
from admin.consents.revocations import TakenAfter, view_of
from admin.ledger.barrier import Effect, Standing
from admin.ledger.events import ConsentRevoked, decode
from admin.ledger.store import Append
from engine.clock import UnixTime, format_utc
from engine.feed.entries import Position
from tests.support.consents import NOW, act, by_atp, granted, subject

DAY = 86_400
LATER = UnixTime(NOW + 10 * DAY)
EFFECT = Effect(Standing.RECORDED, None, Position("i", 2), (), 3)


def days(count: int) -> str:
    return format_utc(UnixTime(NOW + count * DAY))


def event_in(append: Append) -> ConsentRevoked:
    event = decode(append.body)
    assert isinstance(event, ConsentRevoked)
    return event


@pytest.mark.parametrize(
    ("effective_from", "flagged"),
    [
        (days(4), TakenAfter(days(4), days(10))),
        (days(-300), TakenAfter(days(0), days(10))),  # nothing was taken before the grant
        (days(10), None),
    ],
)
def test_data_taken_after_a_consent_was_valid_no_more_is_to_be_flagged(
    effective_from: str, flagged: TakenAfter | None
) -> None:
    form = InvalidForm(reason="moved_out", effective_from=effective_from, evidence="case-9")
    told = msgspec.structs.replace(by_atp(), at=LATER)
    ended = event_in(invalidate(subject(granted()), form, act=told, now=LATER))
    shown = view_of(ended, EFFECT)
    assert (shown.reason, shown.effective_from, shown.data_to_flag) == ("moved_out", effective_from, flagged)


def test_an_end_that_is_told_at_once_leaves_nothing_to_flag() -> None:
    ended = event_in(revoke(subject(granted()), RevokeForm(reason="withdrawn"), act=act(at=LATER), now=LATER))
    shown = view_of(ended, EFFECT)
    assert (shown.reason, shown.effective_from, shown.data_to_flag) == ("withdrawn", days(10), None)
