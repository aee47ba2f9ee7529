"""Which address of several is tried when, and that one connection is left of them, by a clock that jumps."""

import socket
import ssl

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from engine.pusher.connections import Connection, Unreached
from engine.pusher.happy_eyeballs import MOST, Address, by_turns, first_connected
from engine.pusher.schedule import Trouble

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


class Opened(Connection):
    """A connection to nobody, which knows whether it was closed."""

    def __init__(self, name: object) -> None:
        super().__init__(trio.socket.socket(), ssl.create_default_context(), "localhost", 1)
        self.name = name
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True
        super().close()


class Network:
    """Addresses that behave by their names: (seconds to TCP, seconds to TLS after it, trouble or none)."""

    def __init__(self, **behaviours: tuple[float, float, Trouble | None]) -> None:
        self._behaviours = behaviours
        self.begun: dict[str, float] = {}
        self.opened: list[Opened] = []
        self.addresses: list[Address] = [(V4, (name,)) for name in behaviours]

    async def attempt(self, address: Address, reached: trio.Event) -> Connection:
        name = str(address[1][0])
        self.begun[name] = trio.current_time()
        tcp, tls, trouble = self._behaviours[name]
        await trio.sleep(tcp)
        if trouble is Trouble.CONNECT:
            raise Unreached(trouble)
        reached.set()
        await trio.sleep(tls)
        if trouble is not None:
            raise Unreached(trouble)
        self.opened.append(Opened(name))
        return self.opened[-1]

    async def connect(self) -> str:
        found = await first_connected(self.addresses, self.attempt)
        assert isinstance(found, Opened)
        assert not found.is_closed
        assert all(one.is_closed for one in self.opened if one is not found)
        found.close()
        return str(found.name)


NEVER = 1_000.0


async def test_the_next_is_tried_after_a_quarter_of_a_second(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    network = Network(a=(NEVER, 0, None), b=(NEVER, 0, None), c=(0.1, 0.1, None), d=(0, 0, None))
    assert await network.connect() == "c"
    assert network.begun == {"a": 0, "b": 0.25, "c": 0.5}


async def test_the_next_is_tried_at_once_when_one_fails(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    network = Network(a=(0.01, 0, Trouble.CONNECT), b=(0.01, 0.02, Trouble.TLS), c=(0.1, 0.1, None))
    assert await network.connect() == "c"
    assert network.begun == pytest.approx({"a": 0, "b": 0.01, "c": 0.04})


async def test_one_that_was_reached_has_a_second_to_shake_hands(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    patient = Network(a=(0.2, 0.9, None), b=(0, 0, None))
    assert await patient.connect() == "a"
    assert patient.begun.keys() == {"a"}
    stuck = Network(a=(0.2, NEVER, None), b=(0, 0, None))
    assert await stuck.connect() == "b"


async def test_one_that_was_slow_and_comes_after_all_is_taken(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    network = Network(a=(0.3, 0.1, None), b=(0.2, 0.5, None))
    assert await network.connect() == "a"


async def test_of_two_that_stand_in_the_same_moment_one_is_closed(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    both, opened = trio.Event(), []

    async def attempt(address: Address, _reached: trio.Event) -> Connection:
        if address[1] == ("last",):
            both.set()
        await both.wait()
        opened.append(Opened(address))
        return opened[-1]

    with trio.fail_after(5):
        found = await first_connected([(V4, ("one",)), (V4, ("other",)), (V4, ("last",))], attempt)
    assert len(opened) >= 2
    assert [one for one in opened if not one.is_closed] == [found]
    found.close()


async def test_where_all_fail_the_last_to_fail_says_why(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    network = Network(a=(0.4, 0, Trouble.CONNECT), b=(0.01, 0, Trouble.TLS))
    with pytest.raises(Unreached) as caught:
        await network.connect()
    assert caught.value.trouble is Trouble.CONNECT
    with pytest.raises(Unreached) as caught:
        await Network().connect()
    assert caught.value.trouble is Trouble.NAME


async def test_of_a_name_with_many_addresses_the_first_of_each_family_are_tried(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    network = Network(**{f"a{n}": (0.001, 0, Trouble.CONNECT) for n in range(300)})
    fours, sixes = network.addresses[:290], [(V6, place) for _, place in network.addresses[290:]]
    network.addresses = [*fours, *sixes]
    with pytest.raises(Unreached):
        await network.connect()
    assert MOST == 8
    assert list(network.begun) == ["a0", "a290", "a1", "a291", "a2", "a292", "a3", "a293"]


async def test_whoever_is_cancelled_at_any_moment_leaves_nothing_open(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    for moment in range(60):
        network = Network(a=(NEVER, 0, None), b=(0.1, 0.1, None), c=(0.1, 0.05, None))
        with trio.move_on_after(moment * 0.01) as scope:
            await network.connect()
        assert all(one.is_closed for one in network.opened), scope.deadline


async def test_one_that_stands_as_the_caller_is_cancelled_is_closed() -> None:
    network = Network()
    network.addresses = [(V4, ("a",))]
    with trio.CancelScope() as scope:

        async def attempt(_address: Address, _reached: trio.Event) -> Connection:
            await trio.lowlevel.checkpoint()
            scope.cancel()
            network.opened.append(Opened("a"))
            return network.opened[-1]

        await first_connected(network.addresses, attempt)
    assert scope.cancelled_caught
    assert network.opened[0].is_closed


@given(families=st.lists(st.sampled_from((V4, V6)), max_size=8))
def test_families_come_in_turn_and_keep_their_order(families: list[int]) -> None:
    addresses: list[Address] = [(family, (number,)) for number, family in enumerate(families)]
    turns = by_turns(addresses)
    assert sorted(turns) == sorted(addresses)
    for family in (V4, V6):
        assert [one for one in turns if one[0] == family] == [one for one in addresses if one[0] == family]
    both = min(families.count(V4), families.count(V6))
    assert all(turns[2 * n][0] != turns[2 * n + 1][0] for n in range(both))
    assert turns[:1] == addresses[:1]
