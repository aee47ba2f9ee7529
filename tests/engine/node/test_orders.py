"""Orders on the lifeline: the first, later ones, and a child that does not read."""

import os
from collections.abc import Iterator

import msgspec
import pytest

from engine.node.balance import Slot
from engine.node.orders import Lifeline, NoOrder, Order, tell_order, write_order
from tests.engine.node.test_reloading import CONFIG

ORDER = Order("worker-1", CONFIG, (3, 4), slot=Slot(5, 6))
NEWER = msgspec.structs.replace(ORDER, config=msgspec.structs.replace(CONFIG, log_level="debug"))


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.open = {self.reading, self.writing}

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        self.open.remove(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for descriptor in pipe.open:
        os.close(descriptor)


def test_an_order_arrives_as_it_was(pipe: Pipe) -> None:
    write_order(pipe.writing, ORDER)
    assert Lifeline(pipe.reading).read_order() == ORDER


def test_a_later_order_that_came_with_the_first_is_not_lost(pipe: Pipe) -> None:
    write_order(pipe.writing, ORDER)
    assert tell_order(pipe.writing, NEWER)
    lifeline = Lifeline(pipe.reading)
    assert lifeline.read_order() == ORDER
    assert lifeline.has_order
    assert lifeline.read_order() == NEWER
    assert not lifeline.has_order


def test_an_order_in_pieces_is_put_together(pipe: Pipe) -> None:
    write_order(pipe.writing, ORDER)
    whole = os.read(pipe.reading, 1 << 16)
    os.write(pipe.writing, whole[:100])
    lifeline = Lifeline(pipe.reading)
    lifeline.fill()
    assert not lifeline.has_order
    os.write(pipe.writing, whole[100:])
    assert lifeline.read_order() == ORDER


def test_the_end_of_the_lifeline_is_the_end_of_the_supervisor(pipe: Pipe) -> None:
    pipe.close(pipe.writing)
    with pytest.raises(NoOrder):
        Lifeline(pipe.reading).read_order()


def test_a_child_that_does_not_read_holds_nobody_up(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    told = [tell_order(pipe.writing, ORDER) for _ in range(100)]
    assert (told[0], told[-1]) == (True, False)
    lifeline = Lifeline(pipe.reading)
    assert [lifeline.read_order() for _ in range(told.count(True))] == [ORDER] * told.count(True)
    assert tell_order(pipe.writing, NEWER)


def test_a_child_that_is_gone_needs_to_hear_nothing(pipe: Pipe) -> None:
    pipe.close(pipe.reading)
    assert tell_order(pipe.writing, ORDER)
