"""Which events are missing: the chain of numbers, in whatever order they come."""

from hypothesis import given
from hypothesis import strategies as st

from engine.guard.ordering import Chain, Place

positions = st.lists(st.integers(1, 1_000), unique=True, min_size=1, max_size=12).map(sorted)


def linked(seqs: list[int]) -> list[tuple[int, int]]:
    return list(zip(seqs, [0, *seqs], strict=False))


@given(seqs=positions, data=st.data())
def test_any_order_with_repeats_is_whole_at_the_end(seqs: list[int], data: st.DataObject) -> None:
    events = linked(seqs)
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=5))
    chain = Chain()
    for seq, prev in data.draw(st.permutations(events + repeats)):
        chain = chain.after(seq, prev)
    assert chain == Chain(seqs[-1])


@given(seqs=positions, data=st.data())
def test_what_is_whole_holds_nothing_that_has_not_come(seqs: list[int], data: st.DataObject) -> None:
    """last_seq is always the last of the events before the first that is missing."""
    events = linked(seqs)
    came = data.draw(st.lists(st.sampled_from(events), unique=True))
    chain = Chain()
    for seq, prev in came:
        chain = chain.after(seq, prev)
    have = {seq for seq, _ in came}
    whole = 0
    for seq in seqs:
        if seq not in have:
            break
        whole = seq
    assert chain.last_seq == whole
    assert chain.ahead.keys() == {seq for seq in have if seq > whole}
    assert chain.has_hole == any(seq not in have and seq < max(have) for seq in seqs) if have else not chain.has_hole


@given(seqs=positions, data=st.data(), at=st.integers(0, 1_000))
def test_after_a_listing_only_what_is_newer_can_be_missing(seqs: list[int], data: st.DataObject, at: int) -> None:
    events = linked(seqs)
    chain = Chain()
    for seq, prev in data.draw(st.lists(st.sampled_from(events), unique=True)):
        chain = chain.after(seq, prev)
    after = chain.known_to(at)
    assert after.last_seq >= at
    assert all(seq > after.last_seq for seq in after.ahead)
    for seq, prev in events:  # then the rest comes
        after = after.after(seq, prev)
    assert after == Chain(max(seqs[-1], at, chain.last_seq))


def test_places() -> None:
    chain = Chain(10, {20: 15})
    assert chain.place(0, 0) is Place.NONE
    assert chain.place(10, 5) is Place.OLD
    assert chain.place(20, 15) is Place.OLD
    assert chain.place(15, 10) is Place.NEXT
    assert chain.place(15, 7) is Place.NEXT  # it names one before what a listing has covered
    assert chain.place(15, 12) is Place.AHEAD
    assert chain.after(15, 10) == Chain(20)
