"""Who is calling: from the certificate that the TLS layer verified to a participant of the ledger.

The participants are few, so all of them are kept, as of one ledger position, and read anew when the head has moved.
A copy older than REFRESH_AFTER is never used: a suspension bites within it, also on connections open since long,
and a ledger that cannot be read lets nobody in.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
import trio

from admin.access_log import note_caller
from admin.client_certificates import client_certificate, thumbprint_of
from admin.ledger.store import LedgerReader
from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, ParticipantRecord, Role, Thumbprint
from engine.errors import Fault, Kind
from engine.feed.entries import EntryKind, Position

REFRESH_AFTER: Final = Seconds(0.25)  # well below the second within which a suspension must bite
PAGE: Final = 1_000  # records read at once

_participant: Final = msgspec.msgpack.Decoder(ParticipantRecord)


class UnknownCaller(Fault):
    """No client certificate, or one that no participant has registered."""

    kind = Kind.UNAUTHENTICATED


class SuspendedCaller(Fault):
    """The participant is known and may do nothing."""

    kind = Kind.FORBIDDEN


class WrongRole(Fault):
    """The participant is known, and this is not for its role."""

    kind = Kind.FORBIDDEN


class Caller(msgspec.Struct, frozen=True):
    """An authenticated participant, and the certificate it showed."""

    participant: ParticipantRecord
    thumbprint: Thumbprint

    @property
    def client_id(self) -> ClientId:
        return self.participant.client_id

    @property
    def role(self) -> Role:
        return self.participant.role

    def require(self, *roles: Role) -> "Caller":
        """Itself, if it has one of the roles. Raises WrongRole."""
        if self.role not in roles:
            raise WrongRole("this call is not for participants of your role")
        return self


class _Known(msgspec.Struct, frozen=True):
    """All participants as of a position, by the thumbprints of their certificates."""

    position: Position
    read_at: float
    by_thumbprint: Mapping[Thumbprint, ParticipantRecord]


class Callers:
    """Authenticates calls against the ledger's participants."""

    def __init__(self, ledger: LedgerReader, now: Callable[[], UnixTime]) -> None:
        self._ledger = ledger
        self._now = now
        self._known: _Known | None = None
        self._reading = trio.Lock()

    async def authenticate(self, scope: Mapping[str, Any]) -> Caller:
        """The caller of a request, from its ASGI scope, where it is noted for the access log.

        Raises UnknownCaller, SuspendedCaller, and what the ledger raises where it cannot be read.
        """
        der = client_certificate(scope)
        if der is None:
            raise UnknownCaller("a client certificate is required")
        thumbprint = thumbprint_of(der)
        participant = await self._registered(thumbprint)
        note_caller(scope, participant.client_id)
        return _admitted(participant, thumbprint)

    async def authenticate_thumbprint(self, thumbprint: Thumbprint) -> Caller:
        """The caller that has registered a certificate which the TLS layer has verified."""
        return _admitted(await self._registered(thumbprint), thumbprint)

    async def owners(self) -> Mapping[Thumbprint, ClientId]:
        """Who has registered which certificate."""
        return {thumbprint: found.client_id for thumbprint, found in (await self._participants()).items()}

    def forget(self) -> None:
        """Read anew at the next call: somebody here has just changed a participant."""
        self._known = None

    async def _registered(self, thumbprint: Thumbprint) -> ParticipantRecord:
        participant = (await self._participants()).get(thumbprint)
        if participant is None or not self._still_valid(participant, thumbprint):
            raise UnknownCaller("no participant has registered this certificate")
        return participant

    def _still_valid(self, participant: ParticipantRecord, thumbprint: Thumbprint) -> bool:
        """A connection may outlive the certificate it was opened with."""
        return any(c.thumbprint == thumbprint and self._now() < c.not_after for c in participant.certificates)

    async def _participants(self) -> Mapping[Thumbprint, ParticipantRecord]:
        if (fresh := self._fresh()) is not None:
            return fresh
        async with self._reading:  # one reading serves all who wait for it
            if (fresh := self._fresh()) is None:
                self._known = await self._read(self._known)
                fresh = self._known.by_thumbprint
            return fresh

    def _fresh(self) -> Mapping[Thumbprint, ParticipantRecord] | None:
        known = self._known
        if known is None or trio.current_time() - known.read_at > REFRESH_AFTER:
            return None
        return known.by_thumbprint

    async def _read(self, before: _Known | None) -> _Known:
        read_at = trio.current_time()  # before the reading: what is read is at least this new
        position = (await self._ledger.head()).position
        if before is not None and before.position == position:
            return _Known(position, read_at, before.by_thumbprint)
        return _Known(position, read_at, await self._read_all())

    async def _read_all(self) -> Mapping[Thumbprint, ParticipantRecord]:
        found: dict[Thumbprint, ParticipantRecord] = {}
        after = (int(EntryKind.PARTICIPANT), b"")
        while page := await self._ledger.records(after, PAGE):
            participants = [record for _, record in page if record.kind == EntryKind.PARTICIPANT]
            for record in participants:
                participant = _participant.decode(record.record)
                found.update((certificate.thumbprint, participant) for certificate in participant.certificates)
            if len(participants) < len(page):
                break
            after = (int(EntryKind.PARTICIPANT), page[-1][1].key)
        return MappingProxyType(found)


def _admitted(participant: ParticipantRecord, thumbprint: Thumbprint) -> Caller:
    if participant.suspended:
        raise SuspendedCaller("this participant is suspended")
    return Caller(participant, thumbprint)
