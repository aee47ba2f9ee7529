"""The directory over the ledger: each call reads a participant, runs one command and appends its event."""

from collections.abc import Callable

from admin.callers import Callers
from admin.directory import participants
from admin.directory.ownership import ownerships, transfer
from admin.directory.participants import Standing, UnknownParticipant, standing_after
from admin.ledger.events import Act, Organisation, ParticipantEvent, append_of, event_of
from admin.ledger.store import Append, Idempotency, Ledger, SubjectState
from admin.writing import Written, write_together
from engine.consent.records import Certificate, ClientId, ParticipantRecord
from engine.feed.entries import EntryKind

Decide = Callable[[Standing | None], ParticipantEvent]


class Directory:
    """Participants: registered, shown, changed. Whoever may do what is decided before it gets here."""

    def __init__(self, ledger: Ledger, callers: Callers) -> None:
        self._ledger = ledger
        self._callers = callers

    async def find(self, client_id: ClientId) -> tuple[Standing, SubjectState]:
        """A participant and where it was last written. Raises UnknownParticipant."""
        _refuse_impossible(client_id)
        state = await self._ledger.subject(_subject(client_id))
        standing = _standing(state)
        if state is None or standing is None:
            raise UnknownParticipant("no participant of this client_id is registered")
        return standing, state

    async def page(self, after: str, limit: int) -> tuple[list[tuple[Standing, SubjectState]], bool]:
        """At most `limit` participants behind a client_id, in the order of theirs; and whether there are more.

        A participant that is registered between two pages stands in its place in that order; none is left out or
        comes twice.
        """
        records = await self._ledger.records((int(EntryKind.PARTICIPANT), after.encode()), limit + 1)
        keys = [record.key for _, record in records if record.kind == EntryKind.PARTICIPANT]
        return [await self.find(ClientId(key.decode())) for key in keys[:limit]], len(keys) > limit

    async def register(
        self, participant: ParticipantRecord, organisation: Organisation, act: Act, key: Idempotency
    ) -> Written:
        """Raises what `participants.register` and `writing.write` raise; so do the others theirs."""
        owners = await self._callers.owners()
        return await self._write(
            participant.client_id,
            lambda current: participants.register(participant, organisation, current, owners, act),
            key,
        )

    async def update(
        self, client_id: ClientId, values: ParticipantRecord, organisation: Organisation, act: Act, key: Idempotency
    ) -> Written:
        return await self._write(
            client_id, lambda current: participants.update(values, organisation, current, act), key
        )

    async def replace_certificates(
        self, client_id: ClientId, certificates: tuple[Certificate, ...], act: Act, key: Idempotency
    ) -> Written:
        owners = await self._callers.owners()
        return await self._write(
            client_id, lambda current: participants.replace_certificates(certificates, current, owners, act), key
        )

    async def suspend(self, client_id: ClientId, act: Act, key: Idempotency) -> Written:
        return await self._write(client_id, lambda current: participants.suspend(current, act), key)

    async def reinstate(self, client_id: ClientId, act: Act, key: Idempotency) -> Written:
        return await self._write(client_id, lambda current: participants.reinstate(current, act), key)

    async def _write(self, client_id: ClientId, decide: Decide, key: Idempotency) -> Written:
        _refuse_impossible(client_id)

        async def prepare(state: SubjectState | None) -> list[Append]:
            current = _standing(state)
            event = decide(current)
            before, after = () if current is None else current.participant.certificates, event.participant.certificates
            others: list[Append] = []
            if after != before:
                standing = await ownerships(self._ledger, {*before, *after})
                others = transfer(client_id, before, after, standing, event.act)
            return [*others, append_of(event, state.version if state else 0)]

        written = await write_together(self._ledger, _subject(client_id), prepare, key)
        self._callers.forget()  # whoever was just suspended is out at the next call, not a moment later
        return written


def _refuse_impossible(client_id: ClientId) -> None:
    if not participants.is_client_id(client_id):
        raise UnknownParticipant("no participant of this client_id is registered")


def _subject(client_id: ClientId) -> str:
    return f"participant:{client_id}"


def _standing(state: SubjectState | None) -> Standing | None:
    event = None if state is None else event_of(state.event)
    return standing_after(event) if isinstance(event, ParticipantEvent) else None
