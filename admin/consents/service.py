"""Consents over the ledger: each call reads what it needs, runs one command and appends its event.

Who may do what to which consent is decided by the commands themselves, from the `Act`; an ATP that reaches for
another's consent gets the same answer as for one that does not exist.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from admin.consents import commands
from admin.consents.commands import UnknownConsent, consent_of
from admin.consents.forms import Grant, InvalidForm, RenewForm, RevokeForm
from admin.ledger.events import Act, ConsentEvent, ParticipantEvent, event_of
from admin.ledger.store import Append, Idempotency, Ledger, Receipt, StoredEvent, SubjectState
from admin.writing import Written, recall, write
from engine.clock import UnixTime
from engine.consent.records import ClientId, ConsentId

MAX_BATCH: Final = 1_000  # grants appended as one: a second's worth of writes must not wait behind more

Decide = Callable[[SubjectState], Append]


class Consents:
    """Consents: granted, read, renewed, ended. meter_key: names meter points in feed records, 32 bytes."""

    def __init__(self, ledger: Ledger, meter_key: bytes, now: Callable[[], UnixTime]) -> None:
        self._ledger = ledger
        self._meter_key = meter_key
        self._now = now

    async def grant(self, asked: Grant, act: Act, key: Idempotency) -> Written:
        """One consent. Raises what `commands.grant` and `writing.write` raise; so do the others theirs."""
        if (earlier := await recall(self._ledger, key)) is not None:
            return earlier
        append = self._granted(asked, await self.parties(_named(asked)), act)
        return await write(self._ledger, append.subject, lambda _: append, key)

    async def replayed(self, key: Idempotency) -> Receipt | None:
        """The receipt of an earlier `grant_all` under this key. Raises IdempotencyMismatch."""
        return await self._ledger.replayed(key)

    async def grant_all(
        self, asked: Sequence[Grant], parties: Mapping[ClientId, ParticipantEvent], act: Act, key: Idempotency | None
    ) -> tuple[list[Append], Receipt]:
        """Up to MAX_BATCH consents in one append: all or none. parties: of every grant, as `parties` gives them.

        Where the receipt is `replayed`, the appends are not what stands in the ledger.
        """
        appends = [self._granted(grant, parties, act) for grant in asked]
        return appends, await self._ledger.append(appends, key)

    async def find(self, consent_id: ConsentId, act: Act) -> tuple[ConsentEvent, SubjectState]:
        """A consent as it stands. Raises UnknownConsent."""
        state = _known(await self._ledger.subject(_subject(consent_id)))
        return consent_of(state, act), state

    async def events(self, after: int, limit: int) -> Sequence[StoredEvent]:
        """Events of the ledger, of whatever kind, behind a position."""
        return await self._ledger.events(after, limit)

    async def incarnation(self) -> str:
        """The ledger's now: whatever is found by a later call is of this one, or the ledger was replaced meanwhile."""
        return (await self._ledger.head()).position.incarnation

    async def renew(self, consent_id: ConsentId, form: RenewForm, act: Act, key: Idempotency) -> Written:
        return await self._change(
            consent_id, lambda state: commands.renew(state, form, act=act, now=self._now()), act, key
        )

    async def revoke(self, consent_id: ConsentId, form: RevokeForm, act: Act, key: Idempotency) -> Written:
        return await self._change(
            consent_id, lambda state: commands.revoke(state, form, act=act, now=self._now()), act, key
        )

    async def invalidate(self, consent_id: ConsentId, form: InvalidForm, act: Act, key: Idempotency) -> Written:
        return await self._change(
            consent_id, lambda state: commands.invalidate(state, form, act=act, now=self._now()), act, key
        )

    async def parties(self, client_ids: Iterable[ClientId]) -> dict[ClientId, ParticipantEvent]:
        """The newest event of each of these participants that there is."""
        found: dict[ClientId, ParticipantEvent] = {}
        for client_id in dict.fromkeys(client_ids):
            state = await self._ledger.subject(f"participant:{client_id}")
            event = None if state is None else event_of(state.event)
            if isinstance(event, ParticipantEvent):
                found[client_id] = event
        return found

    def _granted(self, asked: Grant, parties: Mapping[ClientId, ParticipantEvent], act: Act) -> Append:
        consent_id = ConsentId(str(uuid.uuid4()))
        return commands.grant(
            asked, parties, consent_id=consent_id, meter_key=self._meter_key, act=act, now=self._now()
        )

    async def _change(self, consent_id: ConsentId, decide: Decide, act: Act, key: Idempotency) -> Written:
        def command(state: SubjectState | None) -> Append:
            known = _known(state)
            consent_of(known, act)  # whose it is comes before what state it is in
            return decide(known)

        return await write(self._ledger, _subject(consent_id), command, key)


def _named(asked: Grant) -> list[ClientId]:
    return [ClientId(asked.form.client_id), *(ClientId(edp) for edp in asked.form.edps)]


def _subject(consent_id: ConsentId) -> str:
    return f"consent:{consent_id}"


def _known(state: SubjectState | None) -> SubjectState:
    if state is None:
        raise UnknownConsent("there is no such consent")
    return state
