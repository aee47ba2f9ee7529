"""What the listings of a receiver's consents promise on any database: whole, its own, and never behind."""

import pytest
import sqlalchemy as sa

from admin.consents.listing import (
    ChangesQuery,
    ChangesView,
    ConsentLine,
    Listings,
    PartyLine,
    SnapshotQuery,
    SnapshotView,
    _Cursor,
    _cursor_text,
)
from admin.ledger.events import LedgerRestored, LedgerWentLive
from admin.ledger.listings import STRETCH, TooOld, read_changes, read_stretch
from admin.ledger.schema import deliveries
from admin.recovery.reading import Recovering, RecoveryReader
from engine.clock import UnixTime
from engine.consent.reading import InvalidFields
from engine.consent.records import ClientId, ParticipantRecord, Role
from engine.events.facts import PartyFact
from engine.pusher.streams import StreamStatus
from tests.support.outboxes import House

EDP, ATP = ClientId("edp-1"), ClientId("atp-1")


def listings(house: House) -> Listings:
    return Listings(house.ledger, house.ledger.database, RecoveryReader(house.ledger))


async def changes(house: House, client_id: str, after: int, limit: int = 100) -> ChangesView:
    await house.settle()
    return await listings(house).changes(ClientId(client_id), ChangesQuery(after, limit))


def caller(client_id: str) -> ParticipantRecord:
    role = Role.ATP if client_id.startswith("atp") else Role.EDP
    return ParticipantRecord(ClientId(client_id), role, suspended=False, certificates=())


async def snapshot(house: House, client_id: str) -> list[SnapshotView]:
    pages = [await listings(house).snapshot(caller(client_id), SnapshotQuery())]
    while (cursor := pages[-1].cursor) is not None:
        pages.append(await listings(house).snapshot(caller(client_id), SnapshotQuery(cursor)))
    return pages


def lines(view: ChangesView) -> list[ConsentLine | PartyLine]:
    """In the order in which they happened."""
    return sorted([*view.consents, *view.parties], key=lambda line: line.seq)


async def house_with_poll(house: House) -> None:
    await house.poll_stream("edp-1", Role.EDP)
    await house.poll_stream("atp-1", Role.ATP)


async def move_in(house: House) -> None:
    """Two ATPs and two EDPs, without streams."""
    for client_id in ("atp-1", "atp-2"):
        await house.register(client_id, Role.ATP)
    for client_id in ("edp-1", "edp-2"):
        await house.register(client_id, Role.EDP)


class ListingsContract:
    """house: as `move_in` leaves it."""

    async def test_a_receiver_without_events_has_nothing_to_hear(self, house: House) -> None:
        view = await changes(house, "edp-1", 0)
        assert (lines(view), view.more) == ([], False)
        assert view.as_of_seq == (await house.ledger.head()).position.seq

    async def test_changes_are_chained_and_name_neither_reason_nor_initiator(self, house: House) -> None:
        await house_with_poll(house)
        consent_id, granted = await house.grant()
        foreign, _ = await house.grant("atp-2", ("edp-2",))
        revoked = await house.revoke(consent_id)
        suspended = await house.suspend("atp-2")
        view = await changes(house, "edp-1", 0)
        found = lines(view)
        assert [(line.seq, line.prev) for line in found] == [(granted, 0), (revoked, granted), (suspended, revoked)]
        assert (view.more, view.as_of_seq) == (False, suspended)
        grant, end = view.consents
        assert (grant.consent_id, grant.consent_version, grant.state) == (consent_id, 1, "active")
        assert (end.consent_id, end.consent_version, end.state, end.expires_at) == (consent_id, 2, "revoked", None)
        assert [line.event.rpartition("/")[2] for line in found] == [
            "consent-granted", "consent-revoked", "party-suspended",
        ]  # fmt: skip
        assert (view.parties[0].suspended, view.parties[0].party_version) == (True, suspended)
        (entry,) = grant.authorization_details
        assert entry["consent_id"] == consent_id
        assert not {"meter_points", "purpose"} & entry.keys()
        assert not end.authorization_details
        assert foreign not in str(view)
        assert not any(word in str(view) for word in ("withdrew", "admin", "initiating"))

    async def test_changes_go_on_where_a_page_ended(self, house: House) -> None:
        await house_with_poll(house)
        seqs = [(await house.grant())[1] for _ in range(5)]
        after, found = 0, list[int]()
        while True:
            view = await changes(house, "edp-1", after, 2)
            found += [line.seq for line in lines(view)]
            after = found[-1]
            if not view.more:
                break
        assert found == seqs
        assert lines(await changes(house, "edp-1", seqs[-1])) == []

    async def test_a_position_between_two_events_will_do(self, house: House) -> None:
        await house_with_poll(house)
        await house.grant()
        _, between = await house.grant("atp-2", ("edp-2",))
        _, last = await house.grant()
        assert [line.seq for line in lines(await changes(house, "edp-1", between))] == [last]

    async def test_who_had_no_stream_takes_the_snapshot(self, house: House) -> None:
        _, before = await house.grant()
        await house_with_poll(house)
        _, after = await house.grant()
        with pytest.raises(TooOld):
            await changes(house, "edp-1", 0)
        assert [line.seq for line in lines(await changes(house, "edp-1", before))] == [after]

    async def test_who_hears_nothing_any_more_is_not_told_that_nothing_happened(self, house: House) -> None:
        stream = await house.poll_stream("edp-1", Role.EDP)
        _, before = await house.grant()
        await house.change(stream, status=StreamStatus.DISABLED)
        await house.grant()
        view = await changes(house, "edp-1", 0)
        assert ([line.seq for line in lines(view)], view.more) == ([before], True)
        with pytest.raises(TooOld):
            await changes(house, "edp-1", before)

    async def test_what_was_missed_in_the_middle_is_not_passed_over(self, house: House) -> None:
        stream = await house.poll_stream("edp-1", Role.EDP)
        _, before = await house.grant()
        stream = await house.change(stream, status=StreamStatus.DISABLED)
        _, missed = await house.grant()
        await house.change(stream, status=StreamStatus.ENABLED)
        _, after = await house.grant()
        view = await changes(house, "edp-1", 0)
        assert ([line.seq for line in lines(view)], view.more) == ([before], True)
        with pytest.raises(TooOld):
            await changes(house, "edp-1", before)
        assert [line.seq for line in lines(await changes(house, "edp-1", missed))] == [after]

    async def test_what_was_erased_by_age_is_too_old(self, house: House) -> None:
        await house_with_poll(house)
        (_, first), (_, second) = await house.grant(), await house.grant()
        await house.settle()
        erase = sa.update(deliveries).where(deliveries.c.seq == first).values(fact=None)
        await house.ledger.database.run(lambda connection: connection.execute(erase))
        with pytest.raises(TooOld):
            await changes(house, "edp-1", 0)
        assert [line.seq for line in lines(await changes(house, "edp-1", first))] == [second]

    async def test_a_position_that_never_was_is_refused(self, house: House) -> None:
        await house_with_poll(house)
        head = (await house.ledger.head()).position
        assert lines(await changes(house, "edp-1", head.seq)) == []
        with pytest.raises(TooOld):
            await changes(house, "edp-1", head.seq + 1)
        other = ChangesQuery(head.seq, 100, "f" * 16)
        with pytest.raises(TooOld):
            await listings(house).changes(EDP, other)
        assert await listings(house).changes(EDP, ChangesQuery(head.seq, 100, head.incarnation))

    async def test_an_outbox_that_lags_behind_claims_no_more_than_it_knows(self, house: House) -> None:
        await house_with_poll(house)
        await house.settle()
        known = (await house.ledger.head()).position.seq
        await house.grant()
        view = await listings(house).changes(EDP, ChangesQuery(known))
        assert (lines(view), view.as_of_seq) == ([], known)

    async def test_nothing_is_listed_while_the_ledger_recovers_nor_from_a_position_that_was_lost(
        self, house: House
    ) -> None:
        await house_with_poll(house)
        seq = (await house.grant())[1]
        head = (await house.ledger.head()).position
        at = UnixTime(house.clock.now() - 10)
        house._versions["ledger"] = 1
        restored = LedgerRestored("f" * 16, seq - 1, head.seq, at, house.clock.now(), "backup-1")
        await house.write(restored)
        with pytest.raises(Recovering):
            await changes(house, "edp-1", 0)
        with pytest.raises(Recovering):
            await snapshot(house, "edp-1")
        await house.write(LedgerWentLive(house.act(), (), 0, 0, 0))
        with pytest.raises(TooOld):
            await changes(house, "edp-1", seq)
        assert len(lines(await changes(house, "edp-1", seq - 1))) == 1

    async def test_a_snapshot_holds_a_receivers_own_consents_as_they_stand(self, house: House) -> None:
        active, granted = await house.grant()
        ended, _ = await house.grant()
        await house.grant("atp-2", ("edp-2",))
        revoked = await house.revoke(ended)
        await house.suspend("atp-2")
        for client_id, parties in (("edp-1", {"atp-1": False, "atp-2": True}), ("atp-1", {"atp-1": False})):
            (page,) = await snapshot(house, client_id)
            found = {line.consent_id: line for line in page.consents}
            assert set(found) == {active, ended}
            assert (found[active].seq, found[active].state, found[active].consent_version) == (granted, "active", 1)
            assert (found[ended].seq, found[ended].state, found[ended].consent_version) == (revoked, "revoked", 2)
            assert found[active].expires_at is not None
            assert [bool(found[one].authorization_details) for one in (active, ended)] == [True, False]
            assert {line.client_id: line.suspended for line in page.parties} == parties
            assert page.as_of_seq == (await house.ledger.head()).position.seq
            assert not any(word in str(page) for word in ("withdrew", "meter_points", "initiating"))

    async def test_a_name_that_is_part_of_another_is_not_it(self, house: House) -> None:
        await house.grant("atp-1", ("edp-2",))
        found = await house.ledger.database.read(lambda c: read_stretch(c, ClientId("edp"), b"", 10))
        assert found.consents == ()

    @pytest.mark.parametrize(("limit", "stretch"), [(1, 1), (2, 3), (100, STRETCH)])
    async def test_pages_of_any_size_hold_every_consent_once(self, house: House, limit: int, stretch: int) -> None:
        own = {(await house.grant())[0] for _ in range(5)}
        for _ in range(3):
            await house.grant("atp-2", ("edp-2",))
        found, key = list[str](), b""
        while True:
            page = await house.ledger.database.read(
                lambda c, key=key: read_stretch(c, EDP, key, limit, stretch)  # type: ignore[misc]  # a default binds it
            )
            found += [listed.fact.consent_id for listed in page.consents]
            if page.next_key is None:
                break
            key = page.next_key
        assert sorted(found) == sorted(own)

    async def test_a_snapshot_and_what_follows_it_make_the_truth_whatever_happens_meanwhile(self, house: House) -> None:
        await house_with_poll(house)
        consents = [(await house.grant())[0] for _ in range(4)]
        await house.settle()
        as_of = (await house.ledger.head()).position.seq
        meanwhile = [lambda: house.revoke(consents[0]), house.grant, lambda: house.revoke(consents[3]), house.grant]
        known: dict[str, tuple[int, str]] = {}
        key = b""
        while True:
            page = await house.ledger.database.read(
                lambda c, key=key: read_stretch(c, EDP, key, 2, 2)  # type: ignore[misc]  # a default binds it
            )
            for one in page.consents:
                known[one.fact.consent_id] = (one.fact.consent_version, one.fact.state.name)
            if page.next_key is None:
                break
            key = page.next_key
            await meanwhile.pop(0)()
        assert len(meanwhile) < 4
        for act in meanwhile:
            await act()
        await house.settle()
        told = await house.ledger.database.read(lambda c: read_changes(c, EDP, as_of, 100))
        assert told.told[0].prev <= as_of
        for change in told.told:
            assert not isinstance(change.fact, PartyFact)
            before = known.get(change.fact.consent_id, (0, ""))
            known[change.fact.consent_id] = max(before, (change.fact.consent_version, change.fact.state.name))
        (now,) = await snapshot(house, "edp-1")
        assert known == {line.consent_id: (line.consent_version, line.state.upper()) for line in now.consents}

    async def test_a_cursor_of_another_incarnation_or_of_nobody_is_refused(self, house: House) -> None:
        reader = listings(house)
        head = (await house.ledger.head()).position
        for cursor in (_Cursor("f" * 16, head.seq, b""), _Cursor(head.incarnation, head.seq + 1, b"")):
            with pytest.raises(TooOld):
                await reader.snapshot(caller("edp-1"), SnapshotQuery(_cursor_text(cursor)))
        for text in ("x", "AAAA", "____", "gqNhYmM"):
            with pytest.raises(InvalidFields):
                await reader.snapshot(caller("edp-1"), SnapshotQuery(text))
