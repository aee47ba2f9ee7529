"""The state table: every transition that is not in it is refused."""

import itertools

import pytest

from engine.consent.records import ConsentId, consent_key
from engine.consent.states import ENDED, TRANSITIONS, Event, IllegalTransition, State, step

ALLOWED = {(state, event) for state, row in TRANSITIONS.items() for event in row}
EVERY = list(itertools.product([None, *State], Event))


@pytest.mark.parametrize(("state", "event"), EVERY)
def test_only_what_is_in_the_table_may_happen(state: State | None, event: Event) -> None:
    if (state, event) in ALLOWED:
        assert step(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransition, match=f"cannot be {event.value.replace('_', ' ')}"):
            step(state, event)


def test_ended_states_have_no_row() -> None:
    assert ENDED.isdisjoint(TRANSITIONS)
    assert {
        State.CONSUMED,
        State.EXPIRED,
        State.REVOKED,
        State.TERMINATED_BY_DISPUTE,
        State.SUPERSEDED,
        State.DECLINED,
        State.ABANDONED,
    } == ENDED


@pytest.mark.parametrize(
    "text",
    [
        "7F3C1B1E-5A0E-4A55-9A53-0D6C2F7C9B10",
        "7f3c1b1e5a0e4a559a530d6c2f7c9b10",
        "{7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10}",
        "7f3c1b1e-5a0e-1a55-9a53-0d6c2f7c9b10",
        "7f3c1b1e-5a0e-4a55-1a53-0d6c2f7c9b10",
        "not-a-uuid",
        "",
    ],
)
def test_a_consent_id_is_a_uuid_of_version_4_in_lower_case(text: str) -> None:
    with pytest.raises(ValueError, match="UUIDv4"):
        consent_key(ConsentId(text))


def test_a_consent_key_is_the_id_in_sixteen_bytes() -> None:
    assert consent_key(ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10")).hex() == "7f3c1b1e5a0e4a559a530d6c2f7c9b10"
