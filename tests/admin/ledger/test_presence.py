"""Who counts as silent, and when who was struck off may be forgotten: by our own clock, never by another's."""

from hypothesis import given
from hypothesis import strategies as st

from admin.ledger.instances import Member, Membership
from admin.ledger.presence import PAUSE, REMEMBERED, SILENT_AFTER, WAIT_OUT, Presence
from engine.feed.entries import Position
from engine.feed.questions import Question

TICK = 0.1
AT = Position("a" * 16, 7)


def member(
    state: Membership = Membership.IN, *, since: float = 0.0, last_seen: float = 0.0, applied: int = 0
) -> Member:
    return Member("i" * 16, "node-1", state, since, last_seen, applied)


def asked(nonce: int = 0, *, node_id: str = "node-1", position: Position = AT) -> Question:
    return Question(node_id, "i" * 16, f"{nonce:016x}", position.incarnation, position.seq)


def ticks(presence: Presence, known: Member, start: float, seconds: float) -> tuple[list[Member], float]:
    """Look once a tick; returns what the last look found, and its time."""
    found: list[Member] = []
    now = start
    while now < start + seconds:
        now += TICK
        found = presence.silent([known], now)
    return found, now


def test_who_says_nothing_is_silent_after_a_while() -> None:
    presence = Presence()
    assert ticks(presence, member(), 0.0, SILENT_AFTER - 0.2)[0] == []
    assert ticks(presence, member(), SILENT_AFTER - 0.2, 0.5)[0] == [member()]


def test_a_new_question_is_a_sign_of_life_and_an_old_one_is_none() -> None:
    presence = Presence()
    _, now = ticks(presence, member(), 0.0, SILENT_AFTER - 0.2)
    assert presence.hear(asked(1), now, 0.0)
    found, now = ticks(presence, member(), now, SILENT_AFTER - 0.2)
    assert found == []
    assert not presence.hear(asked(1), now, 0.0)
    assert ticks(presence, member(), now, 0.5)[0] == [member()]


def test_what_another_process_heard_is_a_sign_of_life() -> None:
    """It stands in the table; that its clock is years behind changes nothing."""
    presence = Presence()
    _, now = ticks(presence, member(last_seen=5.0), 0.0, SILENT_AFTER - 0.2)
    assert ticks(presence, member(last_seen=4.0), now, SILENT_AFTER - 0.2)[0] == []


def test_nobody_is_silent_while_nobody_listened() -> None:
    presence = Presence()
    _, now = ticks(presence, member(), 0.0, 1.0)
    later = now + PAUSE + 100
    assert presence.silent([member()], later) == []
    assert ticks(presence, member(), later, SILENT_AFTER + 0.2)[0] == [member()]


def test_who_is_leaving_is_not_struck_off_again() -> None:
    assert ticks(Presence(), member(Membership.LEAVING), 0.0, SILENT_AFTER * 2)[0] == []


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.sampled_from(["same", "mark", "in", "gone"])), max_size=40))
def test_nobody_is_forgotten_before_its_mark_was_seen_for_the_whole_wait(steps: list[tuple[float, str]]) -> None:
    """Whatever the table says in between: marked anew, admitted again, gone and back."""
    presence, now, since, state = Presence(), 0.0, 1.0, Membership.LEAVING
    seen: float | None = None  # when the present mark was first seen, without a break
    for passed, change in steps:
        now += passed
        if change == "mark":
            since, state, seen = since + 1, Membership.LEAVING, None
        elif change in ("in", "gone"):
            state, seen = Membership.IN, None
        members = [] if change == "gone" else [member(state, since=since)]
        expired = presence.expired(members, now)
        if state is Membership.LEAVING and members:
            seen = now if seen is None else seen
            assert (expired != []) == (now - seen > WAIT_OUT)
        else:
            assert expired == []


def test_applied_counts_by_node_incarnation_and_position() -> None:
    presence = Presence()
    presence.hear(asked(1, node_id="node-2"), 0.0, 0.0)
    assert not presence.has_applied(member(), AT)
    presence.hear(asked(1, position=Position("b" * 16, 100)), 0.0, 0.0)
    assert not presence.has_applied(member(), AT)
    presence.hear(asked(2), 0.0, 0.0)
    assert presence.has_applied(member(), AT)
    assert not presence.has_applied(member(), Position(AT.incarnation, AT.seq + 1))
    assert presence.has_applied(member(applied=AT.seq + 1), Position(AT.incarnation, AT.seq + 1))


def test_last_heard_is_told_in_wall_time() -> None:
    presence = Presence()
    assert presence.last_heard(member(last_seen=50.0)) == 50.0
    presence.hear(asked(1), 1.0, 60.0)
    assert presence.last_heard(member(last_seen=50.0)) == 60.0


def test_the_forgotten_are_remembered_for_as_long_as_their_questions_may_lie_about() -> None:
    presence = Presence()
    presence.hear(asked(1), 0.0, 0.0)
    presence.prune([], REMEMBERED - 1)
    assert not presence.hear(asked(1), REMEMBERED - 1, 0.0)
    presence.prune([], REMEMBERED + 1)
    assert presence.hear(asked(1), REMEMBERED + 1, 0.0)
