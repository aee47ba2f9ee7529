"""When an EDP's right to fall back is suspended and comes back, on any database."""

from collections.abc import Sequence

import msgspec
import pytest

from admin.directory.fallback_rights import FallbackRights
from admin.directory.receiver_watch import ReceiverWatch
from admin.directory.stream_service import Streams
from admin.ledger.events import FallbackRestored, FallbackSuspended, ParticipantEvent, event_of
from admin.ledger.outbox_pruning import close_polls
from admin.ledger.receiver_standing import Standing, read_standings
from engine.consent.records import ClientId, ParticipantRecord, Role
from engine.feed.entries import EntryKind
from engine.pusher.service import Fate, Outcome
from tests.support.outboxes import House, make_anew

DAY = 86_400
EDP, POLLING, ATP = ClientId("edp-1"), ClientId("edp-2"), ClientId("atp-1")


class Watched:
    """A house whose outbox is brought even with the ledger before each look."""

    def __init__(self, house: House) -> None:
        self.house = house
        streams = Streams(house.ledger, house.outbox, house.clock.now, lambda: "word", private_allowed=True)
        rights = FallbackRights(house.ledger)
        self._watches = [
            ReceiverWatch(streams, rights, self.standings, house.clock.now, house.clock.wall) for _ in range(2)
        ]

    async def standings(self) -> Sequence[Standing]:
        return await self.house.ledger.database.read(read_standings)

    async def look(self, seconds: int = 0) -> set[str]:
        """Whose right rests after two processes have looked, one after the other on what was there before."""
        self.house.clock.time += seconds
        await self.house.settle()
        for watch in self._watches:
            await watch.look()
        await self.house.settle()
        return {one.client_id for one in await self.standings() if one.fallback_suspended is not None}

    async def participant(self, client_id: ClientId) -> tuple[ParticipantEvent, int]:
        state = await self.house.ledger.subject(f"participant:{client_id}")
        assert state is not None
        event = event_of(state.event)
        assert isinstance(event, ParticipantEvent)
        return event, state.version

    async def done(self, client_id: ClientId, *, fate: Fate = Fate.DONE) -> None:
        """All that one is owed by push comes to it, or is given up."""
        house = self.house
        lease = await house.outbox.lease("test", None)
        owed = [one for one in await house.outbox.unsigned(0, 100, 0) if one.client_id == client_id]  # type: ignore[arg-type]  # seconds
        at = house.clock.wall()
        await house.outbox.tell(lease.epoch, [Outcome(one.number, fate, 27, at, error="timeout") for one in owed])

    async def acked(self, client_id: ClientId) -> None:
        """It acknowledges by poll whatever there is for it."""
        owed = [one for one in await self.house.outbox.unsigned(0, 100, 0) if one.client_id == client_id]  # type: ignore[arg-type]  # seconds
        await self.house.outbox.poll(client_id, [one.jti for one in owed], {}, 0)


class FallbackRightsContract:
    """Subclasses give `house`: furnished, with edp-1 on both streams and edp-2 on poll alone."""

    @pytest.fixture
    def watched(self, house: House) -> Watched:
        return Watched(house)

    async def test_a_day_without_an_event_ends_an_edps_right_once_and_engines_are_told(self, watched: Watched) -> None:
        _, seq = await watched.house.grant(edps=("edp-1", "edp-2"))
        assert await watched.look(DAY) == set()
        assert await watched.look(1) == {EDP, POLLING}  # the ATP is as late, and has no such right
        event, version = await watched.participant(EDP)
        assert isinstance(event, FallbackSuspended)
        assert event.participant.fallback_suspended is not None
        assert event.participant.fallback_suspended.oldest_seq == seq
        records = await watched.house.ledger.records((int(EntryKind.PARTICIPANT), b"edp-0"), 1)
        assert msgspec.msgpack.decode(records[0][1].record, type=ParticipantRecord) == event.participant
        assert await watched.look(10) == {EDP, POLLING}
        assert (await watched.participant(EDP))[1] == version

    async def test_it_comes_back_when_what_was_late_is_pushed(self, watched: Watched) -> None:
        await watched.house.grant()
        assert await watched.look(DAY + 1) == {EDP}
        await watched.done(EDP)
        assert await watched.look(1) == set()
        event, _ = await watched.participant(EDP)
        assert isinstance(event, FallbackRestored)
        assert event.participant.fallback_suspended is None

    async def test_it_comes_back_when_what_was_late_is_polled_though_push_is_parked(self, watched: Watched) -> None:
        await watched.house.grant(edps=("edp-1", "edp-2"))
        await watched.look()
        await watched.done(EDP, fate=Fate.PARKED)
        assert await watched.look(DAY + 1) == {EDP, POLLING}
        await watched.acked(EDP)
        assert await watched.look(1) == {POLLING}
        await watched.acked(POLLING)
        assert await watched.look(1) == set()

    async def test_who_acknowledges_by_poll_keeps_its_right_while_push_fails_for_days(self, watched: Watched) -> None:
        await watched.house.grant()
        await watched.look()
        await watched.acked(EDP)
        assert await watched.look(3 * DAY) == set()

    async def test_what_poll_lets_go_of_after_a_week_is_no_catching_up(self, watched: Watched) -> None:
        house = watched.house
        await house.grant(edps=("edp-2",))
        assert await watched.look(DAY + 1) == {POLLING}
        house.clock.time += 7 * DAY
        await house.ledger.database.run(lambda connection: close_polls(connection, house.clock.wall() - 7 * DAY))
        assert await watched.look(1) == {POLLING}
        await house.grant(edps=("edp-2",))
        assert await watched.look(1) == {POLLING}  # of the new event it has not heard either
        await watched.acked(POLLING)
        assert await watched.look(1) == set()

    async def test_an_outbox_that_was_made_anew_blames_nobody_for_what_it_tells_again(self, watched: Watched) -> None:
        house = watched.house
        await house.grant()
        await house.settle()
        house.clock.time += 3 * DAY
        await house.ledger.database.run(lambda connection: make_anew(connection, since=house.clock.now() - 7 * DAY))
        house.sequencer = house.another_sequencer()
        assert await watched.look(10) == set()
        assert await watched.look(DAY) == {EDP}

    async def test_an_outbox_that_was_made_by_a_clock_ahead_tells_all_the_same_once_it_is_set_right(
        self, watched: Watched
    ) -> None:
        house = watched.house
        house.clock.time += 30 * DAY
        await house.ledger.database.run(lambda connection: make_anew(connection, since=house.clock.now() - 7 * DAY))
        house.sequencer = house.another_sequencer()
        await house.settle()
        house.clock.time -= 30 * DAY
        await house.grant()
        assert await watched.look(10) == set()
        [standing] = [one for one in await watched.standings() if one.client_id == EDP]
        assert (standing.unsent, standing.unacknowledged) == (1, 1)
        assert await watched.look(DAY) == {EDP}

    async def test_other_changes_of_a_participant_leave_the_suspension_as_it_is(self, watched: Watched) -> None:
        await watched.house.register("edp-9", Role.EDP)
        await watched.house.poll_stream("edp-9", Role.EDP)
        await watched.house.grant(edps=("edp-9",))
        assert "edp-9" in await watched.look(DAY + 1)
        event, version = await watched.participant(ClientId("edp-9"))
        record: ParticipantRecord = event.participant
        assert record.fallback_suspended is not None
        assert not record.may_fall_back
        assert version == 2
