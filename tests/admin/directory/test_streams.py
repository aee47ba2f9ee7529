"""The streams' commands: what is refused, and that no order of them leaves a receiver without a stream that works."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from admin.directory import streams
from admin.directory.streams import (
    CHALLENGE_LIFE,
    CHALLENGE_TRIES,
    LONGEST_PAUSE,
    VERIFICATION_INTERVAL,
    AddressNotConfirmed,
    Before,
    ChallengeSpent,
    MandatoryStream,
    NothingToConfirm,
    StreamExists,
    StreamHeld,
    TooSoon,
    Wanted,
)
from engine.clock import UnixTime
from engine.consent.reading import InvalidFields
from engine.consent.records import ClientId, Role
from engine.errors import Fault
from engine.events.sets import SUPPORTED
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

NOW = UnixTime(1_795_341_600)
EDP = ClientId("edp-7")
URL = "https://events.edp7.example/ccs"
PUSH, POLL = Wanted(delivery=DeliveryMethod.PUSH, endpoint_url=URL), Wanted()
ENABLED, PAUSED, DISABLED = StreamStatus.ENABLED, StreamStatus.PAUSED, StreamStatus.DISABLED


def created(wanted: Wanted = PUSH, owned: tuple[StreamRecord, ...] = (), now: UnixTime = NOW) -> StreamRecord:
    """owned: all of the receiver's so far, deleted ones too, in the order in which they came."""
    alike = [stream for stream in owned if stream.delivery is wanted.delivery]
    before = Before(len(alike), alike[-1] if alike else None)
    return streams.create(wanted, EDP, Role.EDP, before, "a challenge", now, private_allowed=False)


def confirmed() -> StreamRecord:
    return streams.confirm(created(), "a challenge", NOW)


def changed(wanted: Wanted, stream: StreamRecord, *others: StreamRecord, now: UnixTime = NOW) -> StreamRecord:
    return streams.change(wanted, stream, others, "another", now, private_allowed=False)


def test_a_poll_stream_works_at_once_and_a_push_stream_once_it_is_confirmed() -> None:
    poll, push = created(POLL), created()
    assert (poll.status, poll.challenge, poll.is_usable) == (ENABLED, "", True)
    assert (push.status, push.challenge, push.is_usable) == (PAUSED, "a challenge", False)
    after = streams.confirm(push, "a challenge", NOW)
    assert (after.status, after.is_usable, after.reason, after.tries) == (ENABLED, True, "", 0)


def test_a_receiver_has_one_stream_of_each_kind() -> None:
    push, poll = created(), created(POLL)
    for wanted in (PUSH, POLL):
        with pytest.raises(StreamExists):
            created(wanted, (push, poll))
    assert push.stream_id != poll.stream_id


def test_two_that_make_the_same_stream_at_once_name_the_same_one() -> None:
    assert created().stream_id == created(now=UnixTime(NOW + 5)).stream_id
    gone = streams.delete(created(), [created(POLL)])
    assert created(owned=(gone,), now=UnixTime(NOW + 60)).stream_id != gone.stream_id


@pytest.mark.parametrize("wanted", [PUSH, POLL])
def test_a_stream_that_was_deleted_does_not_come_anew_within_a_minute(wanted: Wanted) -> None:
    """Else each deletion would buy a challenge, which is a call to somebody's address, and a record for ever."""
    other = confirmed() if wanted is POLL else created(POLL)
    gone = streams.delete(created(wanted), [other])
    with pytest.raises(TooSoon) as refused:
        created(wanted, (gone, other), UnixTime(NOW + 20))
    assert refused.value.retry_after == 40
    assert created(wanted, (gone, other), UnixTime(NOW + 60)).created_at == NOW + 60


def test_a_later_challenge_counts_from_itself() -> None:
    again = streams.challenged(created(), "another", UnixTime(NOW + 100))
    gone = streams.delete(again, [created(POLL)])
    with pytest.raises(TooSoon):
        created(owned=(gone,), now=UnixTime(NOW + 159))
    created(owned=(gone,), now=UnixTime(NOW + 160))


def test_a_narrower_choice_of_events_is_refused_and_a_wider_one_is_not() -> None:
    with pytest.raises(InvalidFields):
        created(Wanted(events_requested=SUPPORTED[:-1]))
    wider = (*SUPPORTED, "https://schemas.openid.net/secevent/caep/event-type/session-revoked")
    assert created(Wanted(events_requested=wider)).events_requested == wider


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(delivery=DeliveryMethod.PUSH),
        Wanted(delivery=DeliveryMethod.PUSH, endpoint_url="https://10.0.0.1/"),
        Wanted(delivery=DeliveryMethod.POLL, endpoint_url=URL),
    ],
)
def test_an_address_that_cannot_be_is_refused(wanted: Wanted) -> None:
    with pytest.raises(InvalidFields):
        created(wanted)


def test_another_address_has_to_be_confirmed_and_another_description_has_not() -> None:
    moved = changed(msgspec.structs.replace(PUSH, endpoint_url=URL + "/2"), confirmed(), created(POLL))
    assert (moved.status, moved.challenge, moved.is_usable) == (PAUSED, "another", False)
    described = changed(msgspec.structs.replace(PUSH, description="hot standby"), confirmed())
    assert (described.status, described.challenge, described.description) == (ENABLED, "", "hot standby")


def test_the_kind_of_a_stream_does_not_change() -> None:
    with pytest.raises(InvalidFields):
        changed(POLL, confirmed())
    with pytest.raises(InvalidFields):
        changed(PUSH, created(POLL))


def test_another_address_within_a_minute_is_too_soon() -> None:
    elsewhere = msgspec.structs.replace(PUSH, endpoint_url=URL + "/2")
    with pytest.raises(TooSoon) as refused:
        changed(elsewhere, created())
    assert refused.value.retry_after == VERIFICATION_INTERVAL
    later = UnixTime(NOW + int(VERIFICATION_INTERVAL))
    assert changed(elsewhere, created(), now=later).challenge == "another"


@pytest.mark.parametrize("set_back", [90, 86_400])
def test_a_clock_that_was_set_back_puts_off_neither_a_challenge_nor_a_stream_nor_the_end_of_a_pause(
    set_back: int,
) -> None:
    elsewhere, before = msgspec.structs.replace(PUSH, endpoint_url=URL + "/2"), UnixTime(NOW - set_back)
    assert changed(elsewhere, created(), now=before).challenge == "another"
    assert created(owned=(streams.delete(created(), [created(POLL)]),), now=before).challenge
    paused = streams.set_status(created(POLL), PAUSED, "", [], NOW)
    assert not streams.is_over(paused, UnixTime(NOW - 90)), "another instance's clock may be behind"
    assert streams.is_over(paused, UnixTime(NOW - 86_400))


def test_the_last_stream_that_works_keeps_its_address_until_another_works() -> None:
    """Else its receiver could be out of hearing for as long as it likes, by an address that it never confirms."""
    elsewhere = msgspec.structs.replace(PUSH, endpoint_url=URL + "/2")
    for push in (confirmed(), streams.hold(confirmed(), "abuse")):
        for others in ((), (streams.hold(created(POLL), "abuse"),)):
            with pytest.raises(MandatoryStream):
                changed(elsewhere, push, *others)
        assert changed(elsewhere, push, created(POLL)).endpoint_url == elsewhere.endpoint_url
    disabled = streams.set_status(confirmed(), DISABLED, "", [created(POLL)], NOW)
    assert changed(elsewhere, disabled).challenge == "another"  # nobody counts on it any more


def test_a_wrong_confirmation_costs_a_try_and_the_sixth_is_not_looked_at() -> None:
    stream = created()
    for wrong in range(1, CHALLENGE_TRIES + 1):
        stream = streams.confirm(stream, "a challengf", NOW)
        assert (stream.tries, stream.status, stream.is_usable) == (wrong, PAUSED, False)
    with pytest.raises(ChallengeSpent):
        streams.confirm(stream, "a challenge", NOW)


def test_a_confirmation_is_good_for_an_hour() -> None:
    last = UnixTime(NOW + int(CHALLENGE_LIFE) - 1)
    assert streams.confirm(created(), "a challenge", last).is_usable
    with pytest.raises(ChallengeSpent):
        streams.confirm(created(), "a challenge", UnixTime(last + 1))


@pytest.mark.parametrize("stream", [confirmed(), created(POLL)])
def test_there_is_nothing_to_confirm_twice_or_of_a_poll_stream(stream: StreamRecord) -> None:
    with pytest.raises(NothingToConfirm):
        streams.confirm(stream, "a challenge", NOW)


def test_a_pause_ends_by_itself_and_is_not_made_longer_by_asking_again() -> None:
    paused = streams.set_status(confirmed(), PAUSED, "maintenance", [], NOW)
    again = streams.set_status(paused, PAUSED, "maintenance", [], UnixTime(NOW + 800))
    assert again.paused_until == paused.paused_until == NOW + LONGEST_PAUSE
    assert not streams.is_over(paused, UnixTime(NOW + 899))
    assert streams.is_over(paused, UnixTime(NOW + 900))
    after = streams.resume(paused)
    assert (after.status, after.paused_until, after.reason) == (ENABLED, None, "")


def test_the_last_stream_that_works_is_neither_disabled_nor_deleted() -> None:
    push, poll = confirmed(), created(POLL)
    for others in ([], [push], [push, created()], [push, msgspec.structs.replace(poll, status=DISABLED)]):
        with pytest.raises(MandatoryStream):
            streams.set_status(push, DISABLED, "", others, NOW)
        with pytest.raises(MandatoryStream):
            streams.delete(push, others)
    assert streams.set_status(push, DISABLED, "moving", [push, poll], NOW).status is DISABLED
    gone = streams.delete(push, [push, poll])
    assert (gone.deleted, gone.is_usable) == (True, False)


def test_what_an_operator_paused_only_an_operator_enables() -> None:
    held = streams.hold(confirmed(), "abuse")
    assert (held.status, held.reason) == (PAUSED, "abuse")
    for status in StreamStatus:
        with pytest.raises(StreamHeld):
            streams.set_status(held, status, "", [created(POLL)], NOW)
    with pytest.raises(StreamHeld):
        streams.delete(held, [created(POLL)])
    free = streams.let_go(held)
    assert (free.status, free.held, free.reason) == (ENABLED, False, "")


def test_an_operator_does_not_confirm_an_address() -> None:
    held = streams.hold(created(), "abuse")
    assert streams.confirm(held, "a challenge", NOW).status is PAUSED
    assert streams.let_go(held).status is PAUSED
    assert not streams.let_go(held).is_usable


def test_an_address_that_is_not_confirmed_cannot_be_enabled() -> None:
    with pytest.raises(AddressNotConfirmed):
        streams.set_status(created(), ENABLED, "", [], NOW)


class AnyOrder(RuleBasedStateMachine):
    """A receiver and an operator do whatever they like, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.owned: dict[str, StreamRecord] = {}
        self.worked = False

    def mine(self) -> list[StreamRecord]:
        return list(self.owned.values())

    def attempt(self, act: object) -> None:
        try:
            after = act()  # type: ignore[operator]  # a thunk
        except Fault:
            return
        self.owned[after.stream_id] = after
        self.worked = self.worked or any(one.is_usable for one in self.mine())

    @initialize(pushed_to=st.booleans())
    def begin(self, pushed_to: bool) -> None:
        if pushed_to:
            self.attempt(confirmed)

    @rule(wanted=st.sampled_from([PUSH, POLL]))
    def create(self, wanted: Wanted) -> None:
        self.attempt(lambda: created(wanted, tuple(self.owned.values()), self.now))

    @rule(
        data=st.data(),
        what=st.sampled_from(["confirm", "wrong", "delete", "enabled", "paused", "disabled", "hold", "free", "move"]),
    )
    def act(self, data: st.DataObject, what: str) -> None:
        if not self.owned:
            return
        stream = data.draw(st.sampled_from(self.mine()))
        if stream.deleted:
            return
        acts = {
            "confirm": lambda: streams.confirm(stream, stream.challenge, self.now),
            "move": lambda: changed(
                msgspec.structs.replace(PUSH, endpoint_url=stream.endpoint_url + "/x"),
                stream,
                *self.mine(),
                now=self.now,
            ),
            "wrong": lambda: streams.confirm(stream, "wrong", self.now),
            "delete": lambda: streams.delete(stream, self.mine()),
            "hold": lambda: streams.hold(stream, "abuse"),
            "free": lambda: streams.let_go(stream),
        }
        self.attempt(acts.get(what, lambda: streams.set_status(stream, StreamStatus(what), "", self.mine(), self.now)))

    @rule(seconds=st.integers(1, 4_000))
    def wait(self, seconds: int) -> None:
        self.now = UnixTime(self.now + seconds)
        for stream in self.mine():
            if streams.is_over(stream, self.now):
                self.attempt(lambda stream=stream: streams.resume(stream))

    @invariant()
    def one_of_each_kind(self) -> None:
        live = [stream.delivery for stream in self.mine() if not stream.deleted]
        assert len(live) == len(set(live))

    @invariant()
    def only_confirmed_addresses_are_enabled(self) -> None:
        assert all(stream.is_usable for stream in self.mine() if stream.status is ENABLED)

    @invariant()
    def nobody_is_cut_off_by_its_own_doing(self) -> None:
        held = any(stream.held for stream in self.mine())
        works = any(stream.is_usable and stream.status is not DISABLED for stream in self.mine())
        assert works or held or not self.worked


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
