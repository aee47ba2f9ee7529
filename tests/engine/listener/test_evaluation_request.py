"""The short way of reading a body and the long one say the same; what the short one cannot vouch for, it leaves."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.decision.evaluations import Flaw, Question
from engine.listener.evaluation_body import MAX_STRINGS, BadRequest, read_quickly
from engine.listener.evaluation_request import Batch, RequestReader
from tests.support.evaluations import ACTION, RESOURCE, SHARE, subject

SOMETIMES_WRONG = st.sampled_from(["", "x", None, 5, [], "2026-10-01T00:00:00Z", "hh-gas", "push"])


def entity(good: dict[str, Any]) -> st.SearchStrategy[Any]:
    wrong = st.tuples(st.sampled_from(sorted(good)), SOMETIMES_WRONG).map(lambda pair: good | {pair[0]: pair[1]})
    return st.one_of(st.just(good), st.just(good), wrong, st.just({"type": good.get("type")}))


MEMBERS = {
    "subject": st.one_of(entity(subject(b"a" * 32)), entity(subject(b"b" * 32, x5t_s256="A" * 43))),
    "action": st.one_of(entity(ACTION), entity(SHARE).map(lambda told: {"name": "share", "properties": told})),
    "resource": entity(RESOURCE),
    "context": entity({"share_id": "s-1", "delivery": "pull"}),
}
ITEMS = st.fixed_dictionaries({}, optional=MEMBERS)
BATCHES = st.tuples(ITEMS, st.lists(ITEMS, max_size=3)).map(lambda two: two[0] | {"evaluations": two[1]})


def outcome(body: bytes) -> object:
    reader = RequestReader()
    try:
        first = reader.read_batch(body)
        assert reader.read_batch(body) == first
    except BadRequest as fault:
        return fault.status, fault.text
    return first


@given(BATCHES)
def test_white_space_and_unknown_members_change_nothing(batch: dict[str, Any]) -> None:
    compact = json.dumps(batch, separators=(",", ":")).encode()
    spaced = json.dumps(batch, indent=1).encode()
    free = json.dumps(batch | {"free": {"x": 1}}).encode()
    escaped = compact.replace(b'"id"', b'"\\u0069d"')
    backwards = json.dumps(dict(reversed(batch.items())), separators=(",", ":")).encode()
    said = outcome(compact)
    assert [outcome(other) for other in (spaced, free, escaped, backwards)] == [said] * 4


@pytest.mark.parametrize("body", [b'"' + b'\\"' * 131_000, b'{"a":"' * 40_000, b"[" * 262_000, b'"' * 262_000])
def test_a_body_that_is_hard_to_take_apart_is_refused(body: bytes) -> None:
    """Within this test's time-out: a reader that looks for a string's end from each quote anew takes a quarter hour."""
    assert isinstance(outcome(body), tuple)


def test_a_reader_that_knows_token_and_point_reads_the_same() -> None:
    good = {"action": ACTION, "evaluations": [{"subject": subject(b"a" * 32), "resource": RESOURCE}] * 2}
    body = json.dumps(good, separators=(",", ":")).encode()
    knowing = RequestReader({subject(b"a" * 32)["id"]: None})
    first, second, fresh = knowing.read_batch(body), knowing.read_batch(body), RequestReader().read_batch(body)
    assert first == second == fresh
    assert isinstance(first, Batch)
    assert isinstance(first.items[0], Question)


def test_known_token_with_another_type_is_still_malformed() -> None:
    named = subject(b"a" * 32)
    wrong = {"action": ACTION, "evaluations": [{"subject": named | {"type": "user"}, "resource": RESOURCE}]}
    right = {"action": ACTION, "evaluations": [{"subject": named, "resource": RESOURCE}]}
    reader = RequestReader({named["id"]: None})
    kinds = [type(reader.read_batch(json.dumps(body).encode()).items[0]) for body in (right, wrong, right)]
    assert kinds == [Question, Flaw, Question]


def large() -> bytes:
    """A batch of 500 shares, above what the strings of one item may have."""
    items = [{"subject": subject(bytes([number % 256]) * 32), "resource": RESOURCE} for number in range(500)]
    return json.dumps({"action": ACTION, "evaluations": items}, separators=(",", ":")).encode()


def test_a_large_batch_of_small_shares_is_read_the_short_way_and_reads_the_same() -> None:
    body = large()
    assert len(body) > MAX_STRINGS
    assert read_quickly(body) is not None
    assert outcome(body) == outcome(body.replace(b'"id"', b'"\\u0069d"'))


@pytest.mark.parametrize("place", ["evaluations", "top"])
@pytest.mark.parametrize(("characters", "is_taken"), [(MAX_STRINGS - 1_000, True), (MAX_STRINGS, False)])
def test_long_strings_in_a_large_batch_are_refused_wherever_they_stand(
    place: str, characters: int, is_taken: bool
) -> None:
    told = json.loads(large())
    (told if place == "top" else told["evaluations"][7])["context"] = {"share_id": "s" * characters}
    body = json.dumps(told, separators=(",", ":")).encode()
    assert (read_quickly(body) is not None) is is_taken
    assert isinstance(outcome(body), Batch) is is_taken
