"""Questions and answers survive the way, and nothing forged does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.feed.entries import Entry, EntryKind, Position, seal
from engine.feed.questions import (
    Answer,
    ForgedMessage,
    Question,
    seal_answer,
    seal_question,
    unseal_answer,
    unseal_question,
)

KEY, OTHER = b"k" * 32, b"o" * 32
QUESTION = Question("node-1", "a" * 16, "b" * 16, "0123456789abcdef", 41)
ANSWER = Answer("a" * 16, "b" * 16, "0123456789abcdef", 42)

drawn = st.text("0123456789abcdef", min_size=16, max_size=64)
node_ids = st.from_regex("[a-z0-9-]{1,40}", fullmatch=True)
questions = st.builds(Question, node_ids, drawn, drawn, st.just("") | drawn, st.integers(0, (1 << 63) - 1))
answers = st.builds(Answer, drawn, drawn, drawn, st.integers(0, (1 << 63) - 1))


@given(questions)
def test_a_question_comes_back_as_it_was_asked(question: Question) -> None:
    assert unseal_question(seal_question(question, KEY), (KEY,)) == question


@given(answers)
def test_an_answer_comes_back_as_it_was_given(answer: Answer) -> None:
    assert unseal_answer(seal_answer(answer, KEY), (KEY,)) == answer


@given(questions, st.data())
def test_one_changed_bit_is_refused(question: Question, data: st.DataObject) -> None:
    sealed = bytearray(seal_question(question, KEY))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ForgedMessage):
        unseal_question(bytes(sealed), (KEY,))


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused(noise: bytes) -> None:
    with pytest.raises(ForgedMessage):
        unseal_answer(noise, (KEY,))


def test_another_key_is_refused() -> None:
    with pytest.raises(ForgedMessage):
        unseal_answer(seal_answer(ANSWER, OTHER), (KEY,))


def test_an_old_key_is_taken_until_it_is_rotated_out() -> None:
    assert unseal_answer(seal_answer(ANSWER, OTHER), (KEY, OTHER)) == ANSWER


def test_a_question_is_never_taken_for_an_answer() -> None:
    """Both are arrays of strings and numbers; the label inside the MAC tells them apart."""
    with pytest.raises(ForgedMessage):
        unseal_answer(seal_question(QUESTION, KEY), (KEY,))


def test_an_entry_is_never_taken_for_a_question() -> None:
    with pytest.raises(ForgedMessage):
        unseal_question(seal(Entry("0" * 16, 1, EntryKind.NOTHING), KEY), (KEY,))


@pytest.mark.parametrize(
    "bad",
    [
        ("Node", "a" * 16, "b" * 16, "", 0),
        ("node", "short", "b" * 16, "", 0),
        ("node", "a" * 16, "b" * 65, "", 0),
        ("node", "a" * 16, "b" * 16, "xyz", 0),
        ("node", "a" * 16, "b" * 16, "", -1),
    ],
)
def test_a_sealed_question_of_the_wrong_shape_is_refused(bad: tuple[object, ...]) -> None:
    """Struct constructors do not check; the reader does, since the instance becomes part of a Redis key."""
    with pytest.raises(ForgedMessage, match="read"):
        unseal_question(seal_question(Question(*bad), KEY), (KEY,))  # type: ignore[arg-type] - wrong on purpose


def test_stored_bytes_are_pinned() -> None:
    """Nodes and projectors of different releases speak to one another: these bytes never change."""
    assert seal_question(QUESTION, KEY).hex() == PINNED_QUESTION
    assert seal_answer(ANSWER, KEY).hex() == PINNED_ANSWER


def test_positions_are_read_off() -> None:
    assert QUESTION.position == Position("0123456789abcdef", 41)
    assert ANSWER.position == Position("0123456789abcdef", 42)


PINNED_QUESTION = (
    "9563447b5b6b418dc3df4fc6a067bf9095a66e6f64652d31b061616161616161616161616161616161b06262626262626262"
    "6262626262626262b03031323334353637383961626364656629"
)
PINNED_ANSWER = (
    "ff31b2de17dfb3628706b33a11fda8c894b061616161616161616161616161616161b0626262626262626262626262626262"
    "62b0303132333435363738396162636465662a"
)
