"""Which events are missing: the chain of numbers, in whatever order they come."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.guard import ordering
from engine.guard.ordering import Chain, ChainState, Place

positions = st.lists(st.integers(1, 1_000), unique=True, min_size=1, max_size=12).map(sorted)


def linked(seqs: list[int]) -> list[tuple[int, int]]:
    return list(zip(seqs, [0, *seqs], strict=False))


@given(seqs=positions, data=st.data())
def test_any_order_with_repeats_is_whole_at_the_end(seqs: list[int], data: st.DataObject) -> None:
    events = linked(seqs)
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=5))
    chain = Chain()
    for seq, prev in data.draw(st.permutations(events + repeats)):
        chain.add(seq, prev)
    assert chain.now() == ChainState(seqs[-1])


@given(seqs=positions, data=st.data())
def test_what_is_whole_holds_nothing_that_has_not_come(seqs: list[int], data: st.DataObject) -> None:
    """last_seq is always the last of the events before the first that is missing."""
    events = linked(seqs)
    came = data.draw(st.lists(st.sampled_from(events), unique=True))
    chain = Chain()
    for seq, prev in came:
        chain.add(seq, prev)
    have = {seq for seq, _ in came}
    whole = 0
    for seq in seqs:
        if seq not in have:
            break
        whole = seq
    now = chain.now()
    assert now.last_seq == whole
    assert now.ahead == len({seq for seq in have if seq > whole})
    assert now.has_hole == any(seq not in have and seq < max(have, default=0) for seq in seqs)


@given(seqs=positions, data=st.data(), at=st.integers(0, 1_000))
def test_after_a_listing_only_what_is_newer_can_be_missing(seqs: list[int], data: st.DataObject, at: int) -> None:
    events = linked(seqs)
    chain = Chain()
    for seq, prev in data.draw(st.lists(st.sampled_from(events), unique=True)):
        chain.add(seq, prev)
    before = chain.last_seq
    chain.known_to(at)
    assert chain.last_seq >= at
    assert chain.now().newest >= chain.last_seq
    for seq, prev in events:  # then the rest comes
        chain.add(seq, prev)
    assert chain.now() == ChainState(max(seqs[-1], at, before))


def test_places() -> None:
    chain = Chain(10, {20: 15})
    assert chain.place(0, 0) is Place.NONE
    assert chain.place(10, 5) is Place.OLD
    assert chain.place(20, 15) is Place.OLD
    assert chain.place(15, 10) is Place.NEXT
    assert chain.place(15, 7) is Place.NEXT  # it names one before what a listing has covered
    assert chain.place(15, 12) is Place.AHEAD
    chain.add(15, 10)
    assert chain.now() == ChainState(20)


class Model:
    """The same in as few words as there are: everything is looked through for each event."""

    def __init__(self) -> None:
        self.last_seq = 0
        self.ahead: dict[int, int] = {}

    def add(self, seq: int, prev: int) -> None:
        if not seq or seq <= self.last_seq or seq in self.ahead:
            return
        if prev > self.last_seq:
            self.ahead[seq] = prev
        else:
            self.known_to(seq)

    def known_to(self, seq: int) -> None:
        if seq <= self.last_seq:
            return
        self.last_seq = seq
        for one in sorted(self.ahead):
            if one > self.last_seq and self.ahead[one] > self.last_seq:
                break
            self.last_seq = max(self.last_seq, one)
            del self.ahead[one]

    def now(self) -> ChainState:
        missing = max((prev for prev in self.ahead.values() if prev not in self.ahead), default=0)
        return ChainState(self.last_seq, len(self.ahead), missing, max(self.ahead, default=0))


# Of any numbers at all, in whatever order: also such as no ledger gives.
links = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda pair: (max(pair), min(pair) - 1))
steps = st.lists(
    st.one_of(
        links.map(lambda link: ("add", link)),
        st.integers(0, 40).map(lambda seq: ("known", (seq, 0))),
        st.lists(links, max_size=8).map(lambda some: ("undone", some)),
    ),
    max_size=40,
)


@given(steps=steps)
def test_it_is_what_looking_through_everything_finds(steps: list[tuple[str, Any]]) -> None:
    """Step by step, over changes that are taken back and restarts."""
    chain, model = Chain(), Model()
    for what, given_ in steps:
        if what == "undone":
            for seq, prev in given_:
                chain.add(seq, prev)
            chain.undo()
        elif what == "known":
            chain.known_to(given_[0])
            model.known_to(given_[0])
        else:
            chain.add(*given_)
            model.add(*given_)
        assert chain.now() == model.now()
        chain.settled()
    assert Chain(model.last_seq, model.ahead).now() == chain.now()


@given(seqs=positions, data=st.data(), most=st.integers(0, 4))
def test_never_more_is_noted_than_may_be_and_nothing_is_called_whole_that_is_not(
    seqs: list[int], data: st.DataObject, most: int
) -> None:
    """What is not noted leaves a hole, until a listing closes it."""
    events = linked(seqs)
    came = data.draw(st.lists(st.sampled_from(events), unique=True))
    chain, model = Chain(), Model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "MOST_AHEAD", most)
        for seq, prev in came:
            chain.add(seq, prev)
            model.add(seq, prev)
            now, truth = chain.now(), model.now()
            assert now.ahead <= most
            assert now.last_seq <= truth.last_seq
            assert now.has_hole or now == truth
            assert now.missing >= truth.missing
            assert now.newest >= truth.newest
        chain.known_to(seqs[-1])
    assert chain.now() == ChainState(seqs[-1])
