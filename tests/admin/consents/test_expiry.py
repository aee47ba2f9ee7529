"""Consents whose time is over get an event that says so: in time, once, and after any restart."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from admin.consents.commands import consent_of, renew
from admin.consents.expiry import HORIZON, Expiry
from admin.consents.forms import RenewForm, read_grant
from admin.consents.made_people import made_grant
from admin.consents.service import Consents
from admin.directory.participants import register
from admin.ledger.claims import Claim, Claims
from admin.ledger.events import Act, ConsentConsumed, Initiator, Organisation, Route, append_of
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import LedgerUnavailable
from engine.clock import UnixTime, format_utc
from engine.consent.energy_consent import ONE_OFF_SECONDS
from engine.consent.records import Certificate, ClientId, ConsentId, ParticipantRecord, Role, Thumbprint
from engine.consent.states import State
from engine.consent.windows import midnight_before
from engine.telemetry.host import SystemClock
from tests.support.admin_service import DATASET, ledger_config
from tests.support.pki import METER_KEY, NOW

ACT = Act(Initiator.OPERATOR, "ops", Route.API, NOW)


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> UnixTime:
        return self.time


class World:
    def __init__(self, ledger: SqlLedger) -> None:
        self.ledger, self.now = ledger, Hands()
        self.consents = Consents(ledger, METER_KEY, self.now)
        self.claims = Claims(ledger.database, lambda: float(self.now()))

    def expiry(self) -> Expiry:
        return Expiry(self.ledger, self.claims, self.now, lambda: 0.5)

    async def grant(self, *lifetimes: float) -> list[ConsentId]:
        """A consent for each lifetime, seconds from now."""
        grants = []
        for number, lifetime in enumerate(lifetimes):
            form = msgspec.json.decode(made_grant(number, atp="atp-1", edp="edp-1", dataset_id=DATASET, now=self.now()))
            expires = format_utc(UnixTime(int(self.now() + lifetime)))
            form["authorization_details"]["consent_expires_at"] = expires
            grants.append(read_grant(msgspec.json.encode(form), self.now()))
        parties = await self.consents.parties([ClientId("atp-1"), ClientId("edp-1")])
        appends, _ = await self.consents.grant_all(grants, parties, ACT, None)
        return [ConsentId(append.subject.removeprefix("consent:")) for append in appends]

    async def grant_one_off(self, number: int) -> ConsentId:
        form = msgspec.json.decode(made_grant(number, atp="atp-1", edp="edp-1", dataset_id=DATASET, now=self.now()))
        entry = form["authorization_details"]
        entry["access_mode"], entry["data_to"] = "one_off", format_utc(midnight_before(self.now()))
        del entry["consent_expires_at"]
        asked = read_grant(msgspec.json.encode(form), self.now())
        parties = await self.consents.parties([ClientId("atp-1"), ClientId("edp-1")])
        (append,), _ = await self.consents.grant_all([asked], parties, ACT, None)
        return ConsentId(append.subject.removeprefix("consent:"))

    async def states(self, ids: list[ConsentId]) -> list[State]:
        found = [await self.ledger.subject(f"consent:{consent_id}") for consent_id in ids]
        return [consent_of(state).consent.state for state in found if state is not None]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_ledger(ledger_config(tmp_path), SystemClock()) as ledger:
        for number, (client_id, role) in enumerate((("atp-1", Role.ATP), ("edp-1", Role.EDP))):
            certificate = Certificate(Thumbprint(bytes([number]) * 32), UnixTime(NOW + 1))
            record = ParticipantRecord(ClientId(client_id), role, suspended=False, certificates=(certificate,))
            record = msgspec.structs.replace(record, datasets=(DATASET,) if role is Role.EDP else ())
            await ledger.append([append_of(register(record, Organisation(client_id), None, {}, ACT), 0)])
        yield World(ledger)


async def test_a_consent_ends_when_its_time_is_over_and_not_before(world: World) -> None:
    ids = await world.grant(100, 200)
    expiry = world.expiry()
    world.now.time = UnixTime(NOW + 99)
    await expiry.step()
    assert await world.states(ids) == [State.ACTIVE, State.ACTIVE]
    world.now.time = UnixTime(NOW + 100)
    await expiry.step()
    assert await world.states(ids) == [State.EXPIRED, State.ACTIVE]
    world.now.time = UnixTime(NOW + 1_000)
    await expiry.step()
    assert await world.states(ids) == [State.EXPIRED, State.EXPIRED]


async def test_an_end_is_written_once(world: World) -> None:
    await world.grant(100)
    world.now.time = UnixTime(NOW + 100)
    one, two = world.expiry(), world.expiry()
    await one.step()
    head = await world.ledger.head()
    await two.step()
    await one.step()
    assert await world.ledger.head() == head
    assert (one.statistics().ended, two.statistics().ended) == (1, 0)


async def test_two_at_once_write_one_end(world: World) -> None:
    ids = await world.grant(*[100] * 20)
    before = (await world.ledger.head()).position.seq
    world.now.time = UnixTime(NOW + 100)
    one, two = world.expiry(), world.expiry()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.step)
        nursery.start_soon(two.step)
    assert set(await world.states(ids)) == {State.EXPIRED}
    assert (await world.ledger.head()).position.seq == before + 20


async def test_what_was_missed_while_nobody_looked_is_found_at_the_start(world: World) -> None:
    ids = await world.grant(100, 3 * HORIZON)
    world.now.time = UnixTime(NOW + 5_000)
    await world.expiry().step()
    assert await world.states(ids) == [State.EXPIRED, State.ACTIVE]


async def test_a_consent_granted_after_the_look_is_followed(world: World) -> None:
    expiry = world.expiry()
    await expiry.step()
    ids = await world.grant(50)
    world.now.time = UnixTime(NOW + 50)
    await expiry.step()
    assert await world.states(ids) == [State.EXPIRED]
    assert expiry.statistics().scans == 1


async def test_what_ends_later_is_found_by_a_later_look(world: World) -> None:
    ids = await world.grant(2 * HORIZON + 100)
    expiry = world.expiry()
    await expiry.step()
    assert expiry.statistics().waiting == 0
    world.now.time = UnixTime(int(NOW + HORIZON))
    await expiry.step()
    assert expiry.statistics().waiting == 1
    world.now.time = UnixTime(int(NOW + 2 * HORIZON + 100))
    await expiry.step()
    assert await world.states(ids) == [State.EXPIRED]


async def test_a_renewal_moves_the_end(world: World) -> None:
    ids = await world.grant(100)
    expiry = world.expiry()
    await expiry.step()
    state = await world.ledger.subject(f"consent:{ids[0]}")
    assert state is not None
    form = RenewForm(consent_expires_at=format_utc(UnixTime(NOW + 200)), address_confirmed=True, wording="renew-1")
    await world.ledger.append([renew(state, form, act=ACT, now=NOW)])
    world.now.time = UnixTime(NOW + 150)
    await expiry.step()
    assert await world.states(ids) == [State.ACTIVE]
    world.now.time = UnixTime(NOW + 200)
    await expiry.step()
    assert await world.states(ids) == [State.EXPIRED]


async def test_many_that_end_together_all_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.consents.expiry.PAGE", 7)
    ids = await world.grant(*[100] * 150)
    world.now.time = UnixTime(NOW + 100)
    await world.expiry().step()
    assert set(await world.states(ids)) == {State.EXPIRED}


async def test_what_could_not_be_written_stays_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await world.grant(100)
    expiry = world.expiry()
    await expiry.step()
    world.now.time = UnixTime(NOW + 100)

    async def away(*_: object) -> None:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger, "append", away)
        with pytest.raises(LedgerUnavailable):
            await expiry.step()
    await expiry.step()
    assert await world.states(ids) == [State.EXPIRED]


async def test_running_it_ends_what_is_due(world: World) -> None:
    ids = await world.grant(100)
    world.now.time = UnixTime(NOW + 100)
    before = (await world.ledger.head()).position.seq
    async with trio.open_nursery() as nursery:
        await nursery.start(world.expiry().run)
        while (await world.ledger.head()).position.seq == before:
            await world.ledger.wait_beyond(before)
        nursery.cancel_scope.cancel()
    assert await world.states(ids) == [State.EXPIRED]


async def test_the_end_is_the_clocks_and_keeps_the_person(world: World) -> None:
    ids = await world.grant(100)
    world.now.time = UnixTime(NOW + 100)
    await world.expiry().step()
    state = await world.ledger.subject(f"consent:{ids[0]}")
    assert state is not None
    event = consent_of(state)
    assert (event.act.initiator, event.act.at) == (Initiator.SYSTEM, NOW + 100)
    assert state.personal is not None


async def test_a_claimed_one_off_was_consumed_and_an_unclaimed_one_expired(world: World) -> None:
    claimed, unclaimed = await world.grant_one_off(1), await world.grant_one_off(2)
    assert await world.claims.take(Claim(claimed, ClientId("edp-1"), "share-1"))
    expiry = world.expiry()
    world.now.time = UnixTime(NOW + ONE_OFF_SECONDS - 1)
    await expiry.step()
    assert await world.states([claimed, unclaimed]) == [State.ACTIVE, State.ACTIVE]  # a retry is still allowed
    world.now.time = UnixTime(NOW + ONE_OFF_SECONDS)
    await expiry.step()
    assert await world.states([claimed, unclaimed]) == [State.CONSUMED, State.EXPIRED]
    state = await world.ledger.subject(f"consent:{claimed}")
    assert state is not None
    event = consent_of(state)
    assert isinstance(event, ConsentConsumed)
    assert (event.edp, event.share_id) == ("edp-1", "share-1")
