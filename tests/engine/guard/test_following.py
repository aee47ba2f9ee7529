"""The part of a guard that follows events, as it runs: what it does by itself, and when. On trio and on asyncio."""

import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog
from structlog.testing import capture_logs

from engine.clock import Seconds, UnixTime
from engine.events.facts import Change
from engine.guard.event_store import StreamIds
from engine.guard.memory import MemoryFull
from engine.guard.transmitter import NotTold, Stream, TooManyCalls, Unreachable
from engine.guard.watch import Limits, Standing
from engine.telemetry import logs
from tests.support.event_guards import EventGuard
from tests.support.guard_memory import InMemory
from tests.support.told import HandClock, TellingService, consent_id

PUSH_URL = "https://edp-7.example/events"
Play = Callable[..., None]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other tasks do; the play's own time limit bounds it."""
    while not condition():  # noqa: ASYNC110 - the code under test has no event for it
        await anyio.sleep(0.002)


class Running:
    """A guard that follows events, and its service."""

    def __init__(self, guard: EventGuard) -> None:
        self.guard = guard
        self.service = guard.service
        self.clock = guard.clock

    async def asked(self) -> None:
        """The calls of an ask that is due have all been answered."""
        before = self.guard.following.asked_at
        await until(lambda: self.guard.following.asked_at is not None and self.guard.following.asked_at != before)

    async def forward(self, seconds: float) -> None:
        """Time passes, and all tasks have looked."""
        self.clock.forward(seconds)
        self.guard.following.wake()
        await self.rest()

    async def rest(self) -> None:
        """Until nothing has happened for a moment: for showing that something is not done."""
        calls = -1
        while calls != len(self.service.calls):
            calls = len(self.service.calls)
            await anyio.sleep(0.03)


@pytest.fixture(params=["trio", "asyncio"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    def run(scenario: Callable[[Running], Awaitable[None]], **fields: Any) -> None:
        anyio.run(_run, scenario, tmp_path / "events.sqlite", fields, backend=request.param)

    return run


async def _run(scenario: Callable[[Running], Awaitable[None]], path: Path, fields: dict[str, Any]) -> None:
    guard = EventGuard(path, fields.pop("service", None) or TellingService(), set_up=False, **fields)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(20):
            tasks.start_soon(guard.following.run)
            await scenario(Running(guard))
        tasks.cancel_scope.cancel()
    guard.close()


def test_it_sets_up_streams_and_learns_everything(play: Play) -> None:
    service = TellingService()
    for number in range(5):
        service.change(number, Change.GRANTED)

    async def scenario(run: Running) -> None:
        await run.asked()
        assert run.service.made.keys() == {"push", "poll"}
        assert run.guard.store.streams.push == "push"
        assert run.guard.memory.missing_since() is None
        assert run.guard.store.chain.last_seq >= run.service.last_seq
        assert not run.service.unacknowledged
        assert run.service.verified == []  # a challenge comes by itself, and the service takes no request so soon
        assert run.guard.subscribing.push_status == "paused"

    play(scenario, service=service, push_url=PUSH_URL)


def test_streams_that_are_there_are_kept_and_another_address_is_told(play: Play) -> None:
    service = TellingService()
    service.made = {"push": Stream("push", is_push=True, endpoint_url="https://old.example/events")}
    service.push_status = "enabled"

    async def scenario(run: Running) -> None:
        await run.asked()
        assert run.service.made["push"].endpoint_url == PUSH_URL
        assert run.service.calls.count("create_stream") == 1
        assert run.service.verified == []

    play(scenario, service=service, push_url=PUSH_URL)


def test_challenge_is_said_back_and_a_verification_follows(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        assert await run.guard.push(run.service.verification(challenge="prove it"))
        await until(lambda: len(run.service.verified) == 1)
        assert run.service.confirmed == [("push", "prove it")]
        state = run.service.verified[0][1]
        assert state is not None
        echo = run.service.verification(state)
        assert not await run.guard.push(run.service.verification(state + "x"))
        assert await run.guard.push(echo)
        await until(lambda: run.guard.subscribing.push_status == "enabled" and not run.guard.intake.challenges())
        assert run.guard.store.due() == []

    play(scenario, push_url=PUSH_URL)


def test_a_start_that_goes_well_warns_of_nothing(play: Play) -> None:
    """The service takes one request for a verification a minute, and refuses what comes sooner."""
    written = io.BytesIO()
    logs.configure("info", stream=written)

    async def scenario(run: Running) -> None:
        await run.asked()
        assert await run.guard.push(run.service.verification(challenge="prove it"))
        await until(lambda: len(run.service.verified) == 1)
        assert await run.guard.push(run.service.verification(run.service.verified[0][1]))
        for _ in range(3):
            run.clock.forward(60)
            assert await run.guard.push(run.service.heartbeat(run.clock.now()))
            await run.rest()
        assert run.guard.subscribing.push_status == "enabled"

    try:
        play(scenario, push_url=PUSH_URL)
    finally:
        structlog.reset_defaults()
    lines = written.getvalue().decode()
    assert "push_stream_confirmed" in lines
    assert "streams_set_up_later" not in lines, "nothing is asked for too soon"
    assert "warning" not in lines, lines
    assert "error" not in lines, lines


def test_challenge_that_does_not_come_is_asked_for_after_the_services_interval(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        await run.forward(59)
        assert run.service.verified == []
        await run.forward(2)
        await until(lambda: run.service.verified == [("push", None)])
        assert await run.guard.push(run.service.verification(challenge="prove it"))
        await until(lambda: run.service.confirmed == [("push", "prove it")])
        await run.rest()
        assert len(run.service.verified) == 1, "another request would be too soon"
        await run.forward(61)
        await until(lambda: len(run.service.verified) == 2)
        assert run.service.verified[1][1] is not None, "our own word, to be echoed"

    play(scenario, push_url=PUSH_URL)


def test_another_address_is_told_again_when_the_service_takes_it(play: Play) -> None:
    service = TellingService()

    async def scenario(run: Running) -> None:
        service.made = {"push": Stream("push", is_push=True, endpoint_url="https://old.example/events")}
        service._challenged_at = run.clock.boot()
        await run.asked()
        assert service.made["push"].endpoint_url == "https://old.example/events"
        assert run.guard.memory.missing_since() is None, "what keeps it from the address keeps it from nothing else"
        await run.forward(61)
        await until(lambda: service.made["push"].endpoint_url == PUSH_URL)

    play(scenario, service=service, push_url=PUSH_URL)


def test_429_is_heeded_as_long_as_it_says_and_is_no_outage(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        run.service.fails = TooManyCalls("slow down", wait=Seconds(50.0))
        run.clock.forward(180)
        run.guard.following.wake()
        await until(lambda: run.guard.memory.missing_since() == run.clock.now())
        run.service.calls.clear()
        run.service.fails = None
        await run.forward(49)
        assert run.service.calls == []
        await run.forward(2)
        await until(lambda: run.guard.memory.missing_since() is None)

    play(scenario)


def test_challenge_is_said_back_when_the_service_can_be_reached_again(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        await run.guard.keys.current()
        run.service.fails = Unreachable("away")
        assert await run.guard.push(run.service.verification(challenge="prove it"))
        await until(lambda: run.service.calls[-1] == "confirm")
        assert len(run.guard.store.due()) == 1, "a crash would not lose it"
        run.service.fails = None
        await until(lambda: run.service.confirmed == [("push", "prove it")])

    play(scenario, push_url=PUSH_URL)


def test_what_was_taken_is_applied_by_itself(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        told = run.service.change(1, Change.REVOKED)
        await run.guard.intake.take(told.compact, run.guard.keys)
        memory = run.guard.memory
        assert isinstance(memory, InMemory)
        await until(lambda: consent_id(1) in memory._consents)

    play(scenario)


def test_hole_is_asked_about_after_five_seconds_and_not_before(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        lost, told = run.service.change(1, Change.REVOKED), run.service.change(2, Change.GRANTED)
        run.service.calls.clear()
        assert await run.guard.push(told.compact)
        assert run.guard.memory.missing_since() == run.clock.now()
        await run.forward(4.9)
        assert "poll" not in run.service.calls
        run.clock.forward(0.2)
        run.guard.following.wake()
        await until(lambda: run.guard.memory.missing_since() is None)
        assert isinstance(run.guard.memory, InMemory)
        assert run.guard.memory._consents[consent_id(1)].ended
        assert run.guard.store.chain.last_seq >= lost.seq

    play(scenario)


def test_what_was_only_overtaken_needs_no_asking(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        first, second = run.service.change(1, Change.GRANTED), run.service.change(2, Change.GRANTED)
        run.service.calls.clear()
        await run.guard.push(second.compact)
        await run.guard.push(first.compact)
        assert run.guard.memory.missing_since() is None
        await run.forward(6)
        assert "poll" not in run.service.calls

    play(scenario)


def test_heartbeat_that_names_an_event_we_do_not_have(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        assert await run.guard.push(run.service.heartbeat(run.clock.now()))
        assert run.guard.memory.missing_since() is None
        run.service.change(1, Change.REVOKED)
        assert await run.guard.push(run.service.heartbeat(run.clock.now()))
        assert run.guard.memory.missing_since() == run.clock.now()
        await run.forward(5)
        await until(lambda: run.guard.memory.missing_since() is None)

    play(scenario)


def test_heartbeat_that_was_held_up_says_nothing_about_now(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        await run.guard.keys.current()
        old = run.service.heartbeat(run.clock.now())
        run.service.fails = Unreachable("away")
        await run.forward(180)
        assert run.guard.intake.standing() is Standing.UNHEARD
        assert await run.guard.push(old)
        assert run.guard.intake.standing() is Standing.UNHEARD
        assert await run.guard.push(run.service.heartbeat(run.clock.now()))
        assert run.guard.intake.standing() is Standing.WHOLE

    play(scenario)


def test_heartbeats_that_stop_are_made_up_for_by_the_listing(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        run.service.change(1, Change.REVOKED)
        run.service.calls.clear()
        await run.forward(179)
        assert "changes" not in run.service.calls
        run.clock.forward(1)
        run.guard.following.wake()
        await until(lambda: "changes" in run.service.calls and run.guard.intake.standing() is Standing.WHOLE)
        assert run.guard.store.chain.last_seq >= run.service.last_seq

    play(scenario)


def test_heartbeats_that_stop_while_the_service_answers_otherwise_degrade(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        run.service.fails = Unreachable("only introspection is left")
        await run.forward(180)
        assert run.guard.memory.missing_since() is None, "it may be an outage, and the fallback is for those"
        run.clock.forward(1)
        run.guard.answered_at = run.clock.boot()
        run.guard.following.wake()
        await until(lambda: run.guard.memory.missing_since() == run.clock.now())
        run.service.fails = None
        await run.forward(60)
        await until(lambda: run.guard.memory.missing_since() is None)

    play(scenario)


def test_service_that_refuses_to_tell_degrades(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        run.service.fails = NotTold("403")
        await run.forward(180)
        await until(lambda: run.guard.memory.missing_since() == run.clock.now())

    play(scenario)


async def confirmed_stream(run: Running) -> None:
    await run.asked()
    assert await run.guard.push(run.service.verification(challenge="prove it"))
    await until(lambda: run.guard.store.streams.confirmed and not run.guard.intake.challenges())
    assert run.guard.memory.missing_since() is None


def nothing_is_usable(run: Running) -> bool:
    """Not even what is confirmed at this moment, or in the half minute that follows."""
    marked = run.guard.memory.missing_since()
    return marked is not None and marked >= run.clock.now() + 30


@pytest.mark.parametrize("status", ["paused", "disabled"])
def test_while_our_push_stream_is_held_back_nothing_is_usable(play: Play, status: str) -> None:
    async def scenario(run: Running) -> None:
        await confirmed_stream(run)
        run.service.push_status = status
        assert await run.guard.push(run.service.stream_updated(status, run.clock.now()))
        assert nothing_is_usable(run)
        for _ in range(5):  # whatever is asked and told meanwhile
            run.clock.forward(60)
            run.guard.following.wake()
            await until(lambda: nothing_is_usable(run))
        assert run.guard.store.chain.last_seq >= run.service.last_seq
        run.service.push_status = "enabled"
        late = run.service.stream_updated(status, UnixTime(run.clock.now() - 1))
        assert await run.guard.push(run.service.stream_updated("enabled", run.clock.now()))
        await until(lambda: run.guard.memory.missing_since() is None)
        assert await run.guard.push(late)  # it was overtaken
        assert run.guard.memory.missing_since() is None

    play(scenario, push_url=PUSH_URL)


def test_a_pause_that_nobody_told_of_is_seen_with_the_silence(play: Play) -> None:
    """The EDP's own people pause it: the service says nothing of that, and heartbeats stop."""

    async def scenario(run: Running) -> None:
        await confirmed_stream(run)
        run.service.push_status = "paused"
        run.clock.forward(180)
        run.guard.following.wake()
        await until(lambda: nothing_is_usable(run))
        run.service.push_status = "enabled"  # and they enable it, which the next heartbeat shows
        run.clock.forward(1)
        assert await run.guard.push(run.service.heartbeat(run.clock.now()))
        await until(lambda: run.guard.memory.missing_since() is None)

    play(scenario, push_url=PUSH_URL)


def test_a_pause_of_another_stream_and_an_address_that_is_not_confirmed_hold_nothing_back(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        assert run.service.push_status == "paused"
        assert run.guard.memory.missing_since() is None
        assert await run.guard.push(run.service.stream_updated("paused", run.clock.now(), "poll"))
        assert run.guard.memory.missing_since() is None

    play(scenario, push_url=PUSH_URL)


async def test_a_pause_is_still_known_after_a_restart(tmp_path: Path) -> None:
    service, clock = TellingService(), HandClock()
    service.push_status = "enabled"
    guard = EventGuard(tmp_path / "events.sqlite", service, clock=clock, push_url=PUSH_URL, set_up=False)
    await guard.subscribing.ensure()
    await guard.healing.heal(must_list=True)
    assert guard.memory.missing_since() is None
    service.push_status = "paused"
    guard.close()
    guard = EventGuard(
        tmp_path / "events.sqlite", service, clock=clock, memory=guard.memory, push_url=PUSH_URL, set_up=False
    )
    await guard.subscribing.ensure()
    await guard.healing.heal(must_list=True)
    assert guard.memory.missing_since() == clock.now() + 60
    guard.close()


def test_audit_acknowledges_what_was_pushed(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        told = run.service.change(1, Change.GRANTED)
        await run.guard.push(told.compact)
        assert run.service.unacknowledged
        for _ in range(15):
            run.clock.forward(60)
            await run.guard.push(run.service.heartbeat(run.clock.now()))
        run.service.calls.clear()
        await until(lambda: not run.service.unacknowledged)
        await run.rest()
        assert "changes" not in run.service.calls, "nothing is missing"

    play(scenario, limits=Limits(heartbeats=True))


def test_lost_stream_is_made_anew(play: Play) -> None:
    async def scenario(run: Running) -> None:
        await run.asked()
        gone = StreamIds("", "gone", "https://ccs.example/ssf/poll/gone")
        await run.guard.intake.on_disk(run.guard.store.note, streams=gone)
        run.service.change(1, Change.REVOKED)
        run.service.calls.clear()
        await run.forward(180)
        await until(lambda: run.guard.store.streams.poll == "")
        await run.forward(2)
        await until(lambda: run.guard.store.chain.last_seq >= run.service.last_seq)
        assert run.guard.store.streams.poll == "poll"

    play(scenario)


def test_an_answer_about_streams_that_cannot_be_used_is_logged_once_for_each_change(play: Play) -> None:
    whys = ["no URL that can be called", "no URL that can be called", "another", "another", "", "another"]

    async def step() -> None:
        if why := whys.pop(0):
            raise NotTold("the service's answer could not be read", detail=why)

    async def scenario(run: Running) -> None:
        await run.asked()
        with capture_logs() as lines:
            while whys:
                await run.guard.following._unless_refused(step)
        told = [line["detail"] for line in lines if line["event"] == "streams_not_set_up"]
        assert told == ["no URL that can be called", "another", "another"]

    play(scenario)


def test_refused_address_keeps_nobody_from_polling(play: Play) -> None:
    class Refusing(TellingService):
        async def create_stream(self, push_url: str | None) -> Stream:
            if push_url is not None:
                raise NotTold("this address is not registered")
            return await super().create_stream(push_url)

    service = Refusing()
    service.change(1, Change.REVOKED)

    async def scenario(run: Running) -> None:
        await run.asked()
        assert run.guard.memory.missing_since() is None
        assert not run.service.unacknowledged

    play(scenario, service=service, push_url=PUSH_URL)


def test_memory_without_room_stops_acknowledging_and_nothing_is_lost(play: Play) -> None:
    class Full(InMemory):
        full = False

        def end(self, *args: Any) -> None:
            if self.full:
                raise MemoryFull("no room")
            super().end(*args)

    memory = Full()

    async def scenario(run: Running) -> None:
        await run.asked()
        memory.full = True
        told = run.service.change(1, Change.REVOKED)
        with pytest.raises(MemoryFull):
            await run.guard.push(told.compact)
        with pytest.raises(MemoryFull):
            await run.guard.push(run.service.change(2, Change.REVOKED).compact)
        memory.full = False
        await until(lambda: consent_id(1) in memory._consents)
        assert await run.guard.push(run.service.history[-1].compact)
        assert memory._consents[consent_id(2)].ended

    play(scenario, memory=memory)
