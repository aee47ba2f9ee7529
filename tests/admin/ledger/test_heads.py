"""When a position was committed for certain: the first time that somebody saw the ledger there or above."""

from hypothesis import given
from hypothesis import strategies as st

from admin.ledger.heads import Heads
from admin.ledger.presence import WAIT_OUT
from engine.feed.entries import Position

HERE, ELSEWHERE = "a" * 16, "b" * 16


def at(seq: int, incarnation: str = HERE) -> Position:
    return Position(incarnation, seq)


def test_a_position_was_committed_by_the_first_time_it_was_seen() -> None:
    heads = Heads()
    for seq, now in ((5, 1.0), (5, 2.0), (8, 3.0)):
        heads.see(at(seq), now)
    assert [heads.committed_by(at(seq)) for seq in (3, 5, 6, 8, 9)] == [1.0, 1.0, 3.0, 3.0, None]


def test_another_ledger_or_one_that_lost_its_tail_is_seen_anew() -> None:
    heads = Heads()
    heads.see(at(5), 1.0)
    assert heads.committed_by(at(5, ELSEWHERE)) is None
    heads.see(at(4), 2.0)
    assert (heads.committed_by(at(4)), heads.committed_by(at(5))) == (2.0, None)
    heads.see(at(9, ELSEWHERE), 3.0)
    assert (heads.committed_by(at(4)), heads.committed_by(at(9, ELSEWHERE))) == (None, 3.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.001, 1.5)), max_size=60))
def test_what_is_forgotten_never_makes_a_commit_look_older_and_the_wait_is_always_told(
    steps: list[tuple[int, float]],
) -> None:
    heads, seen, now, seq = Heads(), list[tuple[int, float]](), 0.0, 0
    for more, passed in steps:
        now, seq = now + passed, seq + more
        heads.see(at(seq), now)
        seen.append((seq, now))
        for asked in range(seq + 1):
            first = next(when for there, when in seen if there >= asked)
            told = heads.committed_by(at(asked))
            assert told is not None
            assert told >= first
            assert (now - told > WAIT_OUT) == (now - first > WAIT_OUT)
    assert len(heads._seen) <= len({when for _, when in seen if now - when <= WAIT_OUT}) + 1
