"""Ending all consents of a stopped ATP: over real mutual TLS, and step by step on real databases."""

import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock

from admin.cli import run
from admin.cli.consents import ending as parts_of
from admin.consents.end_all import MAX_REST, EndAll, EndAllForm, EndAllView, NotSuspended
from admin.ledger.atp_consents import AtpConsents, read_active_of
from admin.ledger.database import Database
from admin.ledger.events import ConsentRevoked, Initiator, event_of
from admin.ledger.pace import LONGEST_REST, OutboxBehind, Pace
from admin.ledger.signal import Signal
from admin.ledger.store import SubjectState
from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, Role, consent_key
from engine.consent.states import State
from engine.pusher.service import Lane
from tests.support.admin_service import Site
from tests.support.outboxes import House, make_anew, rows

ATP = ClientId("atp-1")
FORM = EndAllForm(reason="security")
LONG, NOW = Seconds(1e6), Seconds(0.0)


@pytest.fixture
async def house(house: House) -> House:
    """With another ATP in it."""
    await house.register("atp-2", Role.ATP)
    return house


def ending(house: House, *, step: int = 3, call: Seconds = LONG, patience: Seconds = LONG) -> EndAll:
    database = house.ledger.database
    pace = Pace(database, house.news, patience=patience)
    return EndAll(house.ledger, AtpConsents(database, house.clock.now).active, pace, step=step, call=call)


async def versions(house: House, *ids: str) -> list[tuple[State, int]]:
    states = {one.subject: one for one in await house.ledger.subjects([f"consent:{name}" for name in ids])}
    events: list[Any] = [event_of(states[f"consent:{name}"].event) for name in ids]
    return [(event.consent.state, event.consent.consent_version) for event in events]


@asynccontextmanager
async def sequenced(house: House) -> AsyncIterator[None]:
    """While the outbox follows; even with the ledger afterwards."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.sequencer.run)
        yield
        await Pace(house.ledger.database, house.news).wait_even()
        nursery.cancel_scope.cancel()


async def test_all_active_consents_end_and_nothing_else_is_touched(house: House) -> None:
    granted = [(await house.grant())[0] for _ in range(8)]
    before, _ = await house.grant()
    await house.revoke(before)
    other, _ = await house.grant(atp="atp-2")
    stopped = await house.suspend(ATP)
    async with sequenced(house):
        found = await ending(house).go_on(ATP, FORM, house.act())
        again = await ending(house).go_on(ATP, FORM, house.act())
    assert (found.ended, found.next, again.ended) == (8, "", 0)
    assert await versions(house, *granted) == [(State.REVOKED, 2)] * 8
    assert await versions(house, before, other) == [(State.REVOKED, 2), (State.ACTIVE, 1)]
    bulk = await house.outbox.backlog(ClientId("edp-1"), Lane.BULK, 0, 99)
    ends = await house.outbox.backlog(ClientId("edp-1"), Lane.ENDS, 0, 99)
    assert len(bulk) == 8
    assert ends[-1].seq == stopped < bulk[0].seq
    assert ends[-1].number < bulk[0].number  # the stop is told first
    written = await rows(house)
    await house.ledger.database.run(make_anew)
    house.sequencer = house.another_sequencer()
    await house.settle()
    assert await rows(house) == written


async def test_it_goes_on_where_a_call_came_to_and_from_the_beginning_too(house: House) -> None:
    granted = [(await house.grant())[0] for _ in range(9)]
    await house.suspend(ATP)
    async with sequenced(house):
        first = await ending(house, step=2, call=NOW).go_on(ATP, FORM, house.act())
        second = await ending(house, step=2, call=NOW).go_on(ATP, EndAllForm(**_after(first)), house.act())
        assert (first.ended, second.ended) == (2, 2)
        assert first.next < second.next
        anew = await ending(house, step=2).go_on(ATP, FORM, house.act())  # as after a kill: nobody knows how far it was
    assert (anew.ended, anew.next) == (5, "")
    assert await versions(house, *granted) == [(State.REVOKED, 2)] * 9


def _after(view: EndAllView) -> dict[str, Any]:
    return {"reason": "security", "after": view.next}


async def test_two_at_once_end_each_consent_once(house: House) -> None:
    granted = [(await house.grant())[0] for _ in range(12)]
    await house.suspend(ATP)
    ended: list[int] = []

    async def work() -> None:
        ended.append((await ending(house).go_on(ATP, FORM, house.act())).ended)

    async with sequenced(house), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(work)
    assert sum(ended) == 12
    assert await versions(house, *granted) == [(State.REVOKED, 2)] * 12


async def test_an_atp_that_is_reinstated_while_a_step_waits_keeps_the_rest(house: House) -> None:
    """The outbox may be seconds behind; what is granted to an ATP in good standing is not for this call to end."""
    granted = [(await house.grant())[0] for _ in range(4)]
    await house.suspend(ATP)

    class Meanwhile(Pace):
        async def wait_even(self) -> None:
            await super().wait_even()
            if (await versions(house, granted[0]))[0][0] is State.REVOKED:
                await house.suspend(ATP, suspended=False)

    database = house.ledger.database
    active = AtpConsents(database, house.clock.now).active
    async with sequenced(house):
        with pytest.raises(NotSuspended):
            await EndAll(house.ledger, active, Meanwhile(database, house.news), step=2).go_on(ATP, FORM, house.act())
    states = [state for state, _ in await versions(house, *granted)]
    assert sorted(states) == sorted([State.REVOKED] * 2 + [State.ACTIVE] * 2)


async def test_a_rest_is_shorter_than_callers_wait(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    """Where the outbox is slow a step takes many seconds; an answer must still come."""
    pace, began = Pace(cast("Database", None), Signal()), trio.current_time()
    await trio.sleep(14)
    await pace.rest(began, MAX_REST)
    assert trio.current_time() - began == pytest.approx(14 + LONGEST_REST)
    again = trio.current_time()
    await trio.sleep(0.5)
    await pace.rest(again, 4.0)
    assert trio.current_time() - again == pytest.approx(2.5)


async def test_one_that_changes_between_reading_and_writing_is_read_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, renewed, third = [(await house.grant())[0] for _ in range(3)]
    await house.suspend(ATP)
    read, changed = house.ledger.subjects, False

    async def meanwhile(names: Sequence[str]) -> Sequence[SubjectState]:
        nonlocal changed
        states = await read(names)
        if not changed:
            changed = True
            await house.revoke(ended)
            await house.write(house.renewing(renewed))
        return states

    monkeypatch.setattr(house.ledger, "subjects", meanwhile)
    async with sequenced(house):
        assert (await ending(house).go_on(ATP, FORM, house.act())).ended == 2
    monkeypatch.undo()
    assert await versions(house, ended, renewed, third) == [(State.REVOKED, n) for n in (2, 3, 2)]


async def test_nothing_ends_while_the_outbox_does_not_follow(house: House) -> None:
    consent_id, _ = await house.grant()
    await house.settle()
    await house.suspend(ATP)
    with pytest.raises(OutboxBehind):
        await ending(house, patience=Seconds(0.2)).go_on(ATP, FORM, house.act())
    assert await versions(house, consent_id) == [(State.ACTIVE, 1)]


async def test_an_atp_that_is_reinstated_meanwhile_keeps_what_is_left(house: House) -> None:
    granted = [(await house.grant())[0] for _ in range(4)]
    await house.suspend(ATP)
    one = ending(house, step=2)
    rest = one._pace.rest

    async def reinstated(began: float, share: float) -> None:
        await rest(began, share)
        await house.suspend(ATP, suspended=False)

    one._pace.rest = reinstated  # type: ignore[method-assign]  # at the end of the first step
    async with sequenced(house):
        with pytest.raises(NotSuspended):
            await one.go_on(ATP, FORM, house.act())
    assert sorted(await versions(house, *granted)) == [(State.ACTIVE, 1)] * 2 + [(State.REVOKED, 2)] * 2


async def test_only_active_ones_are_found_however_short_the_stretch(house: House) -> None:
    granted = [(await house.grant())[0] for _ in range(5)]
    for other in (await house.grant(atp="atp-2"), await house.grant(atp="atp-11")):  # one whose name begins alike
        assert other
    await house.revoke(granted[1])
    now, after, found = house.clock.now(), b"", list[bytes]()
    for _ in range(10):
        part = await house.ledger.database.read(
            functools.partial(read_active_of, atp=ATP, after=after, limit=2, now=now, stretch=2)
        )
        found += part.keys
        if part.next_key is None:
            break
        after = part.next_key
    assert sorted(found) == sorted(consent_key(name) for name in granted if name != granted[1])
    late = UnixTime(now + 2_000_000)  # their time is over: they end by themselves
    over = await house.ledger.database.read(lambda connection: read_active_of(connection, ATP, b"", 9, late))
    assert over.keys == ()


PATH = "/participants/atp-1/end-consents"
BODY = {"reason": "security"}


async def test_operators_end_them_with_evidence_and_persons_kept(site: Site) -> None:
    granted = [await site.granted(number) for number in range(3)]
    kept = await site.granted(3, "atp-2")
    assert (await site.call("operator-1", "POST", "/participants/atp-1/suspend"))[0] == 200
    assert await site.call("operator-1", "POST", PATH, BODY) == (200, {"client_id": "atp-1", "ended": 3})
    assert await site.call("operator-1", "POST", PATH, BODY) == (200, {"client_id": "atp-1", "ended": 0})
    for consent_id in granted:
        state = await site.ledger.subject(f"consent:{consent_id}")
        assert state is not None
        event = event_of(state.event)
        assert isinstance(event, ConsentRevoked)
        assert (event.act.initiator, event.act.actor) == (Initiator.OPERATOR, "operator-1")
        assert (event.act.reason, event.effective_from) == ("security", event.act.at)
        assert state.personal is not None
        assert (await site.call("operator-1", "GET", f"/consents/{consent_id}/revocation"))[0] == 200
    assert (await site.call("operator-1", "GET", f"/consents/{kept}"))[1]["state"] == "active"


async def test_whoever_may_not_and_whatever_does_not_fit_is_refused(site: Site) -> None:
    consent_id = await site.granted()
    status, problem = await site.call("operator-1", "POST", PATH, BODY)
    assert (status, "suspend it first" in problem["detail"]) == (409, True)
    for name in ("atp-9", "edp-1"):
        assert (await site.call("operator-1", "POST", f"/participants/{name}/end-consents", BODY))[0] == 404
    for caller in ("atp-1", "edp-1"):
        assert (await site.call(caller, "POST", PATH, BODY))[0] == 403
    wrong: tuple[dict[str, Any], ...] = (
        {},
        {"reason": "because"},
        BODY | {"after": "x"},
        BODY | {"after": "A" * 32},
        BODY | {"rest": 21},
    )
    for body in wrong:
        assert (await site.call("operator-1", "POST", PATH, body))[0] == 400
    assert (await site.call("operator-1", "GET", f"/consents/{consent_id}"))[1]["state"] == "active"


async def test_the_command_looks_until_none_is_left_and_says_so(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        await site.granted(number)
    files = site.pki.client("operator-1")
    door = ["--url", f"https://localhost:{site.port}", "--ca-file", str(site.pki.ca_file),
            "--certificate", str(files.certificate_file), "--key", str(files.key_file)]  # fmt: skip

    async def ccs(*words: str) -> int:
        return await trio.to_thread.run_sync(run, ["consents", "end-all", *words, "--reason", "security", *door])

    assert await ccs("--client", "atp-1") == 5
    assert "suspend it first" in capfd.readouterr().err
    assert await ccs("--client", "atp-9") == 4
    assert (await site.call("operator-1", "POST", "/participants/atp-1/suspend"))[0] == 200
    assert await ccs("--client", "atp-1", "--json") == 0
    said = msgspec.json.decode(capfd.readouterr().out.splitlines()[-1])
    assert (said["client_id"], said["ended"]) == ("atp-1", 3)
    assert await ccs("--client", "atp-1") == 0
    assert "0 consents of atp-1 were ended" in capfd.readouterr().out


def test_the_command_goes_through_once_more_after_a_look_that_ended_some() -> None:
    """One may have been granted behind a look: the last look ends none."""
    answers = [{"ended": 2, "next": "a" * 32}, {"ended": 0}, {"ended": 1}, {"ended": 0}]
    asked: list[Any] = []

    class Caller:
        def call(self, method: str, path: str, body: Any) -> Any:
            asked.append((method, path, body))
            return answers[len(asked) - 1]

    assert list(parts_of(Caller(), "atp-1", "security", 1.0)) == answers  # type: ignore[arg-type]  # as much as is used
    assert [body.get("after") for _, _, body in asked] == [None, "a" * 32, None, None]
