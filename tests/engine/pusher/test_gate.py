"""The line before the handshakes, under the test's clock."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from engine.clock import Seconds
from engine.pusher.gate import Gate


async def test_who_waits_is_let_in_one_by_one_as_places_are_left() -> None:
    gate, order = Gate(places=2, longest=Seconds(60.0)), []

    async def enter(number: int) -> None:
        await gate.enter()
        order.append(number)

    places = [await gate.enter(), await gate.enter()]
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(enter, number)
            await wait_all_tasks_blocked()
        assert order == []
        for count, place in enumerate(places, start=1):
            gate.leave(place)
            await wait_all_tasks_blocked()
            assert order == list(range(count))


async def test_a_place_is_free_again_after_a_moment_although_its_owner_is_still_there(
    autojump_clock: MockClock,
) -> None:
    """Twenty who never leave, two places, a quarter of a second each: the last comes in after 9 * 0.25 s."""
    gate = Gate(places=2, longest=Seconds(0.25))
    places = [await gate.enter() for _ in range(20)]
    assert autojump_clock.current_time() == 9 * 0.25
    for place in places:
        gate.leave(place)
    assert autojump_clock.current_time() == 9 * 0.25
    await gate.enter()
    await gate.enter()
    assert autojump_clock.current_time() == 9 * 0.25, "what was left long ago gives no place twice, and takes none"
    await gate.enter()
    assert autojump_clock.current_time() == 10 * 0.25


async def test_whoever_gives_up_waiting_holds_up_nobody(autojump_clock: MockClock) -> None:
    gate = Gate(places=1, longest=Seconds(5.0))
    place = await gate.enter()
    with trio.move_on_after(1.0):
        await gate.enter()
    gate.leave(place)
    await gate.enter()
    assert autojump_clock.current_time() == 1.0
