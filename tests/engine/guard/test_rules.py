"""What a guard still knows does not depend on the order in which it heard it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import UnixTime, format_utc, parse_utc
from engine.guard import rules
from engine.guard.shares import KnownConsent
from tests.support.guard_memory import InMemory
from tests.support.known_tokens import CONSENT, NOW, OTHER_CONSENT, entry, known_consent, known_token

HOURS = st.integers(0, 8)
START = parse_utc("2026-01-01T00:00:00Z")


def at(hour: int) -> str:
    return format_utc(UnixTime(START + hour * 3_600))


@st.composite
def windows(draw: st.DrawFn) -> dict[str, str]:
    first, last = sorted((draw(HOURS), draw(HOURS)))
    return {"data_from": at(first), "data_to": at(last + 1)}


@st.composite
def words(draw: st.DrawFn) -> tuple[Any, ...]:
    """One word of the service; answers of one version all show the same, as the service's do."""
    consent_id = draw(st.sampled_from([CONSENT, OTHER_CONSENT]))
    version = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["answer", "end", "change", "suspend", "refuse"]))
    if kind == "answer":
        shown = known_consent(consent_id, version=version, data_from=at(0), data_to=at(9 - version))
        when = UnixTime(NOW + version)
        return "remember", known_token(consents=(shown,), as_of=when, answered_at=when)
    if kind == "change":
        return "change", consent_id, version, entry(consent_id, data_from=at(0), data_to=at(9 - version)), None
    if kind == "suspend":
        return "suspend", "atp-1", version
    return ("refuse", known_token().digest, NOW) if kind == "refuse" else ("end", consent_id, version, NOW)


def hear(memory: InMemory, word: tuple[Any, ...]) -> None:
    if word[0] == "suspend":
        memory.suspend(word[1], word[2], suspended=word[2] % 2 == 0)
    else:
        getattr(memory, word[0])(*word[1:])


def left(said: list[tuple[Any, ...]]) -> object:
    memory = InMemory()
    for word in said:
        hear(memory, word)
    known = memory.look(known_token().digest)
    return None if known is None else sorted(known.consents, key=lambda consent: consent.consent_id)


@given(st.lists(words(), max_size=8), st.randoms(use_true_random=False))
def test_any_order_leaves_the_same(said: list[tuple[Any, ...]], random: Any) -> None:
    answers = {word[1].consents[0].consent_id for word in said if word[0] == "remember"}
    if len(answers) > 1:  # which of two answers about different consents is newer is told by their times alone
        said = [word for word in said if word[0] != "remember" or word[1].consents[0].consent_id == CONSENT]
    shuffled = list(said)
    random.shuffle(shuffled)
    assert left(said) == left(shuffled)


@given(st.lists(words(), max_size=8))
def test_nothing_is_known_that_has_ended_was_refused_or_was_never_answered(said: list[tuple[Any, ...]]) -> None:
    found = left(said)
    if found is None:
        return
    assert isinstance(found, list)
    ended = {word[1] for word in said if word[0] == "end"}
    shown = {word[1].consents[0].consent_id for word in said if word[0] == "remember"}
    assert not {consent.consent_id for consent in found} & ended
    assert {consent.consent_id for consent in found} <= shown
    assert not [word for word in said if word[0] == "refuse"]
    stops = [word[2] for word in said if word[0] == "suspend"]
    assert not stops or max(stops) % 2 == 1


@given(windows(), windows(), st.integers(0, 3), st.integers(0, 3))
def test_narrowing_is_the_intersection_and_never_wider(
    shown: dict[str, str], pushed: dict[str, str], version: int, heard: int
) -> None:
    answer = known_consent(version=version, **shown)
    cut = rules.narrowed(answer, rules.KeptConsent(heard, ended=False, entry=entry(**pushed)))
    if heard <= version:
        assert cut == answer
        return
    start, end = max(shown["data_from"], pushed["data_from"]), min(shown["data_to"], pushed["data_to"])
    if start >= end:
        assert cut is None
    else:
        assert window_of(cut) == (start, end)


def window_of(consent: KnownConsent | None) -> tuple[str, str]:
    assert consent is not None
    read = msgspec.json.decode(consent.entry)
    return read["data_from"], read["data_to"]


def narrowed_by(**members: Any) -> KnownConsent | None:
    return rules.narrowed(known_consent(), rules.KeptConsent(2, ended=False, entry=entry(**members)))


def test_pushed_entry_of_something_else_leaves_nothing() -> None:
    assert narrowed_by(dataset_id="gas") is None
    assert narrowed_by(type="https://other.example") is None
    assert narrowed_by(purpose_code="other") is None
    assert narrowed_by(actions=[]) is None
    assert narrowed_by(restriction="odd days only") is None, "a member that is not understood may restrict"
    assert narrowed_by(data_from="yesterday") is None
    assert narrowed_by(data_from=7) is None
    assert narrowed_by(actions=["read"]) is not None
    assert rules.narrowed(known_consent(), rules.KeptConsent(2, ended=False, entry=b"[]")) is None


def test_open_window_is_closed_by_a_pushed_end_of_it() -> None:
    answer = known_consent()
    members = msgspec.json.decode(answer.entry)
    del members["data_to"]
    answer = msgspec.structs.replace(answer, entry=msgspec.json.encode(members))
    cut = rules.narrowed(answer, rules.KeptConsent(2, ended=False, entry=entry(data_to="2026-03-01T00:00:00Z")))
    assert window_of(cut) == ("2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z")


def test_expiry_is_the_earlier_one() -> None:
    sooner = UnixTime(known_consent().expires_at - 1)
    cut = rules.narrowed(known_consent(), rules.KeptConsent(2, ended=False, expires_at=sooner))
    assert cut is not None
    assert cut.expires_at == sooner


@pytest.mark.parametrize("first", [2, 3, 5])
def test_an_end_wins_over_every_version_whichever_came_first(first: int) -> None:
    """Also over a renewal of a higher version, which came before it."""
    renewed = rules.changed(None, first, entry(), None)
    over = rules.ended(renewed, 3, NOW)
    assert over == rules.KeptConsent(max(first, 3), ended=True, at=NOW)
    assert rules.narrowed(known_consent(), over) is None
    for version in (first, 3, 9):
        assert rules.changed(over, version, entry(), None) is None


def test_older_truth_than_the_floor_is_not_remembered() -> None:
    assert rules.remembered(None, known_token(), UnixTime(NOW)) is None
    assert rules.remembered(None, known_token(), UnixTime(NOW - 1)) is not None
