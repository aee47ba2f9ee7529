"""What a receiver's picture in memory promises: order per consent, one under way, bounded, and nothing forgotten."""

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.clock import UnixTime
from engine.events.facts import VerificationFact
from engine.events.sets import subject
from engine.pusher.outbox import ALWAYS, CONCURRENCY, PLACES, Budget, Outbox
from engine.pusher.schedule import SPREAD, waits_of
from engine.pusher.service import Delivery, Fate, Lane
from tests.support.deliveries import AT, delivery, ended, granted

NOW = float(AT)


def outbox(budget: int = 1_000, lane_size: int = 128) -> Outbox:
    return Outbox(Budget(budget), lane_size=lane_size)


def numbers(box: Outbox, now: float = NOW) -> list[int]:
    """All that may be sent now."""
    found = []
    while (held := box.take(now)) is not None:
        found.append(held.delivery.number)
    return found


def test_ends_go_before_what_came_earlier() -> None:
    box = outbox()
    box.arrived([delivery(1, granted(1, "edp-1"), lane=Lane.ORDINARY), delivery(2, ended(2, "edp-1"))])
    assert numbers(box) == [2, 1]


def test_one_delivery_of_a_consent_is_under_way_in_order() -> None:
    box = outbox()
    box.arrived([delivery(1, ended(7, "edp-1", 2)), delivery(2, ended(7, "edp-1", 3)), delivery(3)])
    assert numbers(box) == [1, 3]
    box.settle(1, Fate.DONE, attempts=1)
    assert numbers(box) == [2]


def test_a_consent_under_way_in_one_lane_waits_in_the_other() -> None:
    box = outbox()
    box.arrived([delivery(1, granted(7, "edp-1"), lane=Lane.ORDINARY)])
    assert numbers(box) == [1]
    box.arrived([delivery(2, ended(7, "edp-1"))])
    assert numbers(box) == []
    box.settle(1, Fate.AGAIN, attempts=1, next_at=NOW + 30)
    assert numbers(box) == [2], "an end overtakes the grant that waits for its next attempt"


def test_what_failed_holds_back_its_consent_until_it_is_parked_and_nobody_else() -> None:
    box = outbox()
    box.arrived([delivery(1, ended(7, "edp-1", 2)), delivery(2, ended(7, "edp-1", 3)), delivery(3)])
    assert numbers(box) == [1, 3]
    box.settle(1, Fate.AGAIN, attempts=1, next_at=NOW + 5)
    assert numbers(box) == []
    assert box.due_at(NOW) == NOW + 5
    assert numbers(box, NOW + 5) == [1]
    box.settle(1, Fate.PARKED, attempts=2)
    assert numbers(box, NOW + 5) == [2]


def test_lower_lanes_leave_places_for_ends() -> None:
    box = outbox()
    box.arrived([delivery(n, granted(n, "edp-1"), lane=Lane.ORDINARY) for n in range(1, 21)])
    box.arrived([delivery(n, ended(n, "edp-1"), lane=Lane.BULK) for n in range(21, 41)])
    assert len(numbers(box)) == CONCURRENCY == PLACES[Lane.ORDINARY] + PLACES[Lane.BULK]
    box.settle(1, Fate.DONE, attempts=1)
    box.arrived([delivery(50)])
    assert numbers(box) == [50]


def test_bulk_and_new_ones_can_be_held_back() -> None:
    box = outbox()
    box.arrived([delivery(1, lane=Lane.BULK), delivery(2)])
    assert box.take(NOW, new=False) is None
    held = box.take(NOW, bulk=False)
    assert held is not None
    box.settle(2, Fate.AGAIN, attempts=1, next_at=NOW + 5)
    assert box.take(NOW, bulk=False) is None
    again = box.take(NOW + 5, new=False)
    assert again is not None
    assert again.delivery.number == 2


def test_what_finds_no_room_is_read_again_in_its_order() -> None:
    box = outbox(lane_size=4)
    everything = [delivery(n) for n in range(1, 11)]
    box.arrived(everything[:6])
    assert box.status()[Lane.ENDS].behind
    assert box.next_reading() is None, "there is no room yet"
    assert numbers(box) == [1, 2, 3, 4]
    for n in (1, 2):
        box.settle(n, Fate.DONE, attempts=1)
    assert box.next_reading() == (Lane.ENDS, 4)
    assert box.next_reading() is None, "it is being read"
    box.arrived(everything[6:7])  # meanwhile: not kept, and not in what is being read
    box.read_again(Lane.ENDS, everything[4:6], whole=True)
    assert box.status()[Lane.ENDS].behind
    assert numbers(box) == [5, 6]
    for n in (3, 4, 5, 6):
        box.settle(n, Fate.DONE, attempts=1)
    assert box.next_reading() == (Lane.ENDS, 6)
    box.read_again(Lane.ENDS, everything[6:7], whole=True)
    assert not box.status()[Lane.ENDS].behind
    box.arrived(everything[7:8])
    assert numbers(box) == [7, 8]


def test_a_reading_that_was_overtaken_by_a_new_beginning_does_not_count() -> None:
    box = outbox(lane_size=4)
    box.arrived([delivery(n) for n in range(5, 10)])
    assert numbers(box) == [5, 6, 7, 8]
    for n in (5, 6, 7, 8):
        box.settle(n, Fate.DONE, attempts=1)
    assert box.next_reading() == (Lane.ENDS, 8)
    box.owe_everything()  # parked ones with lower numbers are free
    box.read_again(Lane.ENDS, [delivery(9)], whole=True)
    assert box.next_reading() == (Lane.ENDS, 0)


def test_the_budget_bounds_all_receivers_together_and_leaves_some_to_each() -> None:
    budget = Budget(2)
    one, other = Outbox(budget), Outbox(budget)
    for box in (one, other):
        box.arrived([delivery(n) for n in range(1, ALWAYS + 4)])
    assert one.status()[Lane.ENDS].held == ALWAYS + 2
    assert other.status()[Lane.ENDS].held == ALWAYS
    assert other.next_reading() is None, "there is no room to read into"
    one.close()
    assert budget.left == 2


def test_a_stream_that_stops_forgets_all_but_what_is_under_way() -> None:
    box = outbox()
    box.arrived([delivery(n) for n in (1, 2)])
    held = box.take(NOW)
    assert held is not None
    box.clear()
    assert numbers(box) == []
    box.settle(1, Fate.AGAIN, attempts=1, next_at=NOW)
    box.owe_everything()
    assert box.next_reading() == (Lane.ENDS, 0)
    box.read_again(Lane.ENDS, [delivery(1), delivery(2)], whole=True)
    assert sorted(numbers(box)) == [1, 2]


def test_a_receiver_that_is_back_gets_at_once_what_waited() -> None:
    box = outbox()
    box.arrived([delivery(n) for n in (1, 2, 3)])
    assert numbers(box) == [1, 2, 3]
    box.settle(1, Fate.AGAIN, attempts=3, next_at=NOW + 3_600)
    box.settle(2, Fate.AGAIN, attempts=3, next_at=NOW + 1_800)
    box.hasten()
    assert numbers(box) == [1, 2]


def test_what_is_ready_and_finds_no_place_stays_so_when_the_clock_is_set_back() -> None:
    box = outbox()
    box.arrived([delivery(n) for n in range(1, CONCURRENCY + 2)])
    for number in numbers(box):
        box.settle(number, Fate.AGAIN, attempts=1, next_at=NOW + 5)
    assert numbers(box) == [CONCURRENCY + 1]
    box.settle(CONCURRENCY + 1, Fate.AGAIN, attempts=1, next_at=NOW + 5)
    under_way = numbers(box, NOW + 5)
    assert len(under_way) == CONCURRENCY, "one is left, whose time has come"
    box.settle(under_way[0], Fate.DONE, attempts=2)
    assert numbers(box, NOW + 4) == [CONCURRENCY + 1]


@pytest.mark.parametrize("lane", Lane)
def test_a_wait_that_no_schedule_asks_for_was_told_by_a_clock_that_was_ahead(lane: Lane) -> None:
    box = outbox()
    box.arrived([delivery(n, lane=lane) for n in (1, 2)])
    assert numbers(box) == [1, 2]
    ahead, longest = NOW + 86_400, waits_of(lane)[-1] * (1 + SPREAD)
    box.settle(1, Fate.AGAIN, attempts=8, next_at=NOW + longest)
    box.settle(2, Fate.AGAIN, attempts=8, next_at=ahead + longest)
    assert numbers(box, ahead) == [1]
    box.settle(1, Fate.AGAIN, attempts=8, next_at=NOW + longest)
    assert numbers(box) == [2], "the clock is set right"
    assert box.due_at(NOW) == NOW + longest, "the schedule's own waits stay"
    assert numbers(box, NOW + longest) == [1]


def test_such_a_wait_is_not_believed_when_it_comes_out_of_the_outbox() -> None:
    box = outbox()
    behind = msgspec.structs.replace(delivery(2, ended(1, "edp-1", 3)), attempts=3, next_at=NOW + 90_000)
    box.arrived([msgspec.structs.replace(delivery(1), attempts=3, next_at=NOW + 80_000), behind])
    assert numbers(box) == [1]
    box.settle(1, Fate.DONE, attempts=4)
    assert numbers(box) == [2]


def test_who_stands_in_line_twice_is_not_sent_before_its_time() -> None:
    box = outbox()
    box.arrived([msgspec.structs.replace(delivery(2, ended(7, "edp-1", 3)), attempts=1, next_at=NOW + 5)])
    box.owe(Lane.ENDS)
    assert box.next_reading() == (Lane.ENDS, 2)
    box.read_again(Lane.ENDS, [delivery(1, ended(7, "edp-1", 2))], whole=True)
    assert numbers(box) == [1]
    box.settle(1, Fate.DONE, attempts=1)  # the other takes its place in line a second time
    held = box.take(NOW + 5)
    assert held is not None
    box.settle(held.delivery.number, Fate.AGAIN, attempts=2, next_at=NOW + 20)
    assert numbers(box, NOW + 19) == []
    assert numbers(box, NOW + 20) == [2]


def test_events_about_the_stream_itself_are_in_a_row_of_their_own() -> None:
    box = outbox()
    fact = VerificationFact("stream-1", UnixTime(AT))
    box.arrived([delivery(1, fact), delivery(2, fact), delivery(3)])
    assert numbers(box) == [1, 3]


class Owed(RuleBasedStateMachine):
    """The picture against the outbox it is a picture of: everything ends, each subject in order, nothing forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.box = outbox(budget=6, lane_size=10)
        self.outbox: dict[int, Delivery] = {}  # pending, as the ledger's side has them
        self.parked: dict[int, Delivery] = {}
        self.under_way: dict[int, Delivery] = {}
        self.reading: tuple[Lane, list[Delivery], bool] | None = None
        self.not_before: dict[int, float] = {}
        self.number = 0
        self.now = NOW

    @rule(lane=st.sampled_from(Lane), consent=st.integers(1, 6), count=st.integers(1, 5))
    def committed(self, lane: Lane, consent: int, count: int) -> None:
        new = [
            delivery(self.number + n, ended(consent + n % 2, "edp-1", self.number + n), lane=lane)
            for n in range(1, count + 1)
        ]
        self.number += count
        self.outbox |= {each.number: each for each in new}
        self.box.arrived(new)

    @rule(new=st.booleans(), bulk=st.booleans())
    def take(self, new: bool, bulk: bool) -> None:
        held = self.box.take(self.now, new=new, bulk=bulk)
        if held is None:
            return
        sent = held.delivery
        assert sent.number in self.outbox, "it has ended already"
        assert self.now >= self.not_before.get(sent.number, 0.0), "its time has not come"
        assert subject(sent.fact) not in {subject(each.fact) for each in self.under_way.values()}
        earlier = [
            each.number
            for each in self.outbox.values()
            if each.lane is sent.lane and subject(each.fact) == subject(sent.fact) and each.number < sent.number
        ]
        assert not earlier, "an earlier one of its subject has not ended"
        self.under_way[sent.number] = sent

    @rule(data=st.data(), fate=st.sampled_from([Fate.DONE, Fate.DONE, Fate.AGAIN, Fate.PARKED]))
    def settle(self, data: st.DataObject, fate: Fate) -> None:
        if not self.under_way:
            return
        number = data.draw(st.sampled_from(sorted(self.under_way)))
        sent = self.under_way.pop(number)
        if fate is not Fate.AGAIN:
            del self.outbox[number]
        if fate is Fate.PARKED:
            self.parked[number] = sent
        self.not_before[number] = self.now + 5
        self.box.settle(number, fate, attempts=1, next_at=self.now + 5)

    @rule()
    def hasten(self) -> None:
        self.box.hasten()
        self.not_before.clear()

    @rule()
    def begin_reading(self) -> None:
        if self.reading is None and (asked := self.box.next_reading()) is not None:
            lane, after = asked
            owed = sorted(n for n, each in self.outbox.items() if each.lane is lane and n > after)
            self.reading = lane, [self.outbox[n] for n in owed[:3]], len(owed) <= 3

    @rule(fails=st.booleans())
    def end_reading(self, fails: bool) -> None:
        if self.reading is not None:
            lane, found, whole = self.reading
            self.reading = None
            # What ended since it was read comes nevertheless; here it would break the order that is asserted.
            alive = [each for each in found if each.number in self.outbox]
            self.box.read_again(lane, () if fails else alive, whole=whole and not fails)

    @rule()
    def unpark(self) -> None:
        # Only when nothing behind them is under way: what was parked may be overtaken.
        if self.parked and not self.under_way and self.reading is None:
            self.outbox |= self.parked
            self.parked.clear()
            self.not_before.clear()
            self.box.clear()
            self.box.owe_everything()

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def bounded(self) -> None:
        assert sum(status.held for status in self.box.status().values()) <= 3 * ALWAYS + 6
        assert self.box.under_way == len(self.under_way) <= CONCURRENCY

    def teardown(self) -> None:
        """Whatever happened: with time and readings, everything is sent."""
        for number in list(self.under_way):
            self.box.settle(number, Fate.DONE, attempts=1)
            del self.outbox[number]
        self.end_reading(fails=False)
        for _ in range(10 * (self.number + 1)):
            self.now += 10
            while (held := self.box.take(self.now)) is not None:
                del self.outbox[held.delivery.number]
                self.box.settle(held.delivery.number, Fate.DONE, attempts=1)
            self.begin_reading()
            self.end_reading(fails=False)
            if not self.outbox:
                break
        assert not self.outbox
        assert sum(1 for _ in self.box) == 0


TestOwed = Owed.TestCase
TestOwed.settings = settings(max_examples=60, stateful_step_count=40)
