"""One receiver's deliveries as the pusher holds them in memory: what may be sent now, what waits, what is owed. Pure.

Lanes are apart: ends go before what is ordinary, that before bulk, and the lower ones may not take all the places. In a
lane the deliveries about one subject (a consent, an ATP, the stream) go one after the other, in order; over all lanes
one of them is under way at a time. Lanes overtake each other by design: receivers go by version and `ccs_prev`.

Memory is bounded. A lane that takes no more is *behind*: the outbox has what was left out, and it is read again from
the last one that was taken, once there is room. So a delivery is here, or it is owed by a lane that is behind, or it
has an outcome; the same one may come twice, and is taken once.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from engine.events.sets import subject
from engine.pusher.schedule import longest_wait
from engine.pusher.service import Delivery, Fate, Lane

CONCURRENCY: Final = 8  # deliveries of one receiver under way
# Of these places, how many a lane may hold: an end always finds one that the others cannot have.
PLACES: Final = {Lane.ENDS: 8, Lane.ORDINARY: 6, Lane.BULK: 2}
LANE_SIZE: Final = 128  # deliveries of one lane; 2 KB each
ALWAYS: Final = 8  # a lane has so many places of its own; the others come out of the budget
BUDGET: Final = 65_536  # of all receivers together: 130 MB


class Budget:
    """Places in memory that all receivers share, so that many who are down cannot fill it."""

    def __init__(self, places: int = BUDGET) -> None:
        self._left = places

    def take(self) -> bool:
        """One place; False = there is none."""
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    def give_back(self, places: int) -> None:
        """They are free again."""
        self._left += places

    @property
    def left(self) -> int:
        """How many are free."""
        return self._left


class Held(msgspec.Struct):
    """A delivery with what has become of it here. refusals: of our key, in a row. next_at: not before."""

    delivery: Delivery
    attempts: int
    next_at: float
    refusals: int = 0


class LaneStatus(msgspec.Struct, frozen=True):
    """held: in memory, under way included. oldest: when the oldest of these was committed; 0 = there is none."""

    held: int
    under_way: int
    behind: bool
    oldest: float


class _Lane:
    """Deliveries of one lane, a row for each subject, in the order of their numbers."""

    def __init__(self, lane: Lane) -> None:
        self.longest_wait = longest_wait(lane)
        self.rows: dict[str, deque[Held]] = {}
        self.numbers: set[int] = set()
        self.ready: list[tuple[int, str]] = []  # heap of (number, subject): heads whose time has come
        self.waiting: list[tuple[float, int, str]] = []  # heap of (next_at, number, subject)
        self.furthest = 0.0  # nothing in `waiting` waits for longer
        self.under_way = 0
        self.borrowed = 0  # places of the budget
        self.newest = 0  # the highest number that was ever taken, or was read past
        self.behind = False
        self.left_out = False  # something since the last reading began
        self.reading = False
        self.anew = False  # what is being read now does not count: begin from the first again

    def head(self, number: int, row: str) -> Held | None:
        """The head of a row, if it still is the delivery of that number."""
        held = self.rows.get(row)
        return held[0] if held and held[0].delivery.number == number else None

    def line_up(self, row: str) -> None:
        """Put the head of a row where its time tells."""
        held = self.rows[row][0]
        number = held.delivery.number
        if held.next_at > 0:
            self.furthest = max(self.furthest, held.next_at)
            heapq.heappush(self.waiting, (held.next_at, number, row))
        else:
            heapq.heappush(self.ready, (number, row))

    def ripen(self, now: float) -> None:
        """Move heads whose time has come to those that are ready."""
        if self.furthest > now + self.longest_wait:
            self._disbelieve(now + self.longest_wait)
        while self.waiting and self.waiting[0][0] <= now:
            _, number, row = heapq.heappop(self.waiting)
            held = self.head(number, row)
            if held is not None and held.next_at <= now:
                held.next_at = 0.0  # its time has come for good: a clock that is set back does not take that away
                heapq.heappush(self.ready, (number, row))

    def _disbelieve(self, latest: float) -> None:
        """What waits for longer than that was told so by a clock that was ahead: its time has come."""
        for _, number, row in self.waiting:
            held = self.head(number, row)
            if held is not None and held.next_at > latest:
                held.next_at = 0.0
        self.waiting = [(at if at <= latest else 0.0, number, row) for at, number, row in self.waiting]
        heapq.heapify(self.waiting)
        self.furthest = max((at for at, _, _ in self.waiting), default=0.0)


class Outbox:
    """Of one receiver. Times: seconds since 1970. lane_size: deliveries of a lane that are kept here at most."""

    def __init__(self, budget: Budget, *, lane_size: int = LANE_SIZE) -> None:
        self._budget = budget
        self._lane_size = lane_size
        self._lanes = {lane: _Lane(lane) for lane in Lane}
        self._busy: set[str] = set()  # subjects with a delivery under way
        self._under_way: dict[int, Held] = {}

    # What comes in.

    def arrived(self, deliveries: Iterable[Delivery]) -> None:
        """What the outbox has brought for this receiver, in order. What finds no room makes its lane behind."""
        for delivery in deliveries:
            lane = self._lanes[delivery.lane]
            if lane.behind:
                lane.left_out = True  # to be read again in its turn, or it would overtake those before it
            elif not self._take(lane, delivery):
                lane.behind = lane.left_out = True

    def owe_everything(self) -> None:
        """All lanes are to be read again from the beginning: the stream has become usable, or parked ones are free."""
        for lane in self._lanes.values():
            lane.behind = lane.left_out = True
            lane.newest = 0
            lane.anew = lane.reading

    def owe(self, lane: Lane) -> None:
        """Something for this lane came, and was not kept."""
        self._lanes[lane].behind = self._lanes[lane].left_out = True

    def next_reading(self) -> tuple[Lane, int] | None:
        """A lane that should be read again now, and after which number; it counts as being read from now on."""
        for name, lane in self._lanes.items():
            if lane.behind and not lane.reading and self._has_room(lane):
                lane.reading, lane.left_out = True, False
                return name, lane.newest
        return None

    def read_again(self, name: Lane, deliveries: Iterable[Delivery], *, whole: bool, up_to: int = 0) -> None:
        """What a reading brought. whole: the outbox had no more when it was read. A reading that failed: nothing.

        up_to: number of the last that was read, where those that are not for now were left out.
        """
        lane = self._lanes[name]
        lane.reading = False
        for delivery in deliveries:
            if not self._take(lane, delivery):
                whole = False  # the next reading begins after the last that was taken
                break
            lane.newest = max(lane.newest, delivery.number)
        else:
            lane.newest = max(lane.newest, up_to)
        if lane.anew:
            lane.anew, lane.newest = False, 0
        elif whole and not lane.left_out:
            lane.behind = False

    def _has_room(self, lane: _Lane) -> bool:
        held = len(lane.numbers)
        return held <= self._lane_size // 2 and (held < ALWAYS or self._budget.left > 0)

    def _take(self, lane: _Lane, delivery: Delivery) -> bool:
        """Keep one. False: there is no room. One that is here already is not taken again."""
        number = delivery.number
        if number in lane.numbers:
            return True
        held = len(lane.numbers)
        if held >= self._lane_size or (held >= ALWAYS and not self._borrow(lane)):
            return False
        lane.numbers.add(number)
        lane.newest = max(lane.newest, number)
        self._put(lane, Held(delivery, delivery.attempts, delivery.next_at))
        return True

    def _borrow(self, lane: _Lane) -> bool:
        if not self._budget.take():
            return False
        lane.borrowed += 1
        return True

    def _put(self, lane: _Lane, held: Held) -> None:
        """Into its row, by number: one that was read again may be older than those behind it."""
        row = subject(held.delivery.fact)
        line = lane.rows.setdefault(row, deque())
        at = len(line)
        first = 1 if line and line[0].delivery.number in self._under_way else 0
        while at > first and line[at - 1].delivery.number > held.delivery.number:
            at -= 1
        line.insert(at, held)
        if at == 0:
            lane.line_up(row)

    # What goes out.

    def take(self, now: float, *, new: bool = True, bulk: bool = True) -> Held | None:
        """The next one to send; it is under way from now on. None: nothing may go now.

        new: one that was never tried may go. bulk: one of the bulk lane may.
        """
        if len(self._under_way) >= CONCURRENCY:
            return None
        for name, lane in self._lanes.items():
            if lane.under_way >= PLACES[name] or (name is Lane.BULK and not bulk):
                continue
            lane.ripen(now)
            held = self._first(lane, now, new=new)
            if held is not None:
                return self._send(lane, held)
        return None

    def _first(self, lane: _Lane, now: float, *, new: bool) -> Held | None:
        passed: list[tuple[int, str]] = []
        found: Held | None = None
        while lane.ready and found is None:
            number, row = heapq.heappop(lane.ready)
            held = lane.head(number, row)
            if held is None or number in self._under_way or held.next_at > now:
                continue  # said twice
            if row in self._busy or not (new or held.attempts):
                passed.append((number, row))
            else:
                found = held
        for one in passed:
            heapq.heappush(lane.ready, one)
        return found

    def _send(self, lane: _Lane, held: Held) -> Held:
        lane.under_way += 1
        self._under_way[held.delivery.number] = held
        self._busy.add(subject(held.delivery.fact))
        return held

    def settle(self, number: int, fate: Fate, *, attempts: int, next_at: float = 0.0, refusals: int = 0) -> None:
        """One that was under way has an outcome."""
        held = self._under_way.pop(number)
        lane, row = self._lanes[held.delivery.lane], subject(held.delivery.fact)
        lane.under_way -= 1
        self._busy.discard(row)
        if fate is Fate.AGAIN:
            held.attempts, held.next_at, held.refusals = attempts, next_at, refusals
            lane.line_up(row)
            return
        line = lane.rows[row]
        line.popleft()
        self._drop(lane, (number,))
        if line:
            lane.line_up(row)
        else:
            del lane.rows[row]

    def give_back(self, number: int) -> None:
        """One that was under way was not sent: it stands where it stood."""
        held = self._under_way[number]
        self.settle(number, Fate.AGAIN, attempts=held.attempts, next_at=held.next_at, refusals=held.refusals)

    def hasten(self) -> None:
        """The receiver is back: what waits for its next attempt goes now, in order."""
        for lane in self._lanes.values():
            for _, number, row in lane.waiting:
                held = lane.head(number, row)
                if held is not None and number not in self._under_way:
                    held.next_at = 0.0
                    heapq.heappush(lane.ready, (number, row))
            lane.waiting.clear()

    def clear(self) -> None:
        """Forget all but what is under way: the stream is not to be used for now. Later `owe_everything`."""
        for lane in self._lanes.values():
            for row, line in list(lane.rows.items()):
                gone = [held for held in line if held.delivery.number not in self._under_way]
                self._drop(lane, [held.delivery.number for held in gone])
                kept = deque(held for held in line if held.delivery.number in self._under_way)
                if kept:
                    lane.rows[row] = kept
                else:
                    del lane.rows[row]
            lane.ready.clear()
            lane.waiting.clear()

    def close(self) -> None:
        """This receiver's places are free for others."""
        for lane in self._lanes.values():
            self._budget.give_back(lane.borrowed)
            lane.borrowed = 0

    def _drop(self, lane: _Lane, numbers: Iterable[int]) -> None:
        lane.numbers.difference_update(numbers)
        spare = lane.borrowed - max(0, len(lane.numbers) - ALWAYS)
        if spare > 0:
            lane.borrowed -= spare
            self._budget.give_back(spare)

    # How it stands.

    def due_at(self, now: float) -> float | None:
        """When the next one that waits for its time may go, later than now; None: none does."""
        for lane in self._lanes.values():
            lane.ripen(now)
        times = [lane.waiting[0][0] for lane in self._lanes.values() if lane.waiting]
        return min(times, default=None)

    @property
    def under_way(self) -> int:
        """How many are."""
        return len(self._under_way)

    def is_ready(self, *lanes: Lane) -> bool:
        """Whether something in these lanes is; it may have to wait for its subject or a place."""
        return any(self._lanes[lane].ready for lane in lanes or Lane)

    def status(self) -> dict[Lane, LaneStatus]:
        """For status pages and metrics."""
        return {
            name: LaneStatus(len(lane.numbers), lane.under_way, lane.behind, _oldest(lane))
            for name, lane in self._lanes.items()
        }

    def __iter__(self) -> Iterator[Held]:
        """Everything that is held."""
        for lane in self._lanes.values():
            for line in lane.rows.values():
                yield from line


def _oldest(lane: _Lane) -> float:
    return min((line[0].delivery.committed_at for line in lane.rows.values()), default=0.0)
