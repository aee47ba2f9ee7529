"""How anything is written through the API: read the subject, decide, append, and answer from what was appended.

The answer to a write is made from its event alone, so a repeated idempotency key gets the same answer as the first
call did, whatever has happened to the subject since.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from admin.ledger.events import LedgerEvent, decode, event_of
from admin.ledger.store import Append, Idempotency, Ledger, Receipt, SubjectState, VersionConflict
from engine.consent.records import ClientId
from engine.errors import Fault, Kind
from engine.feed.entries import Position

ATTEMPTS: Final = 4  # writers that meet on one subject are rare; who loses four times in a row is told so
IdempotencyKey = Annotated[str, Meta(min_length=8, max_length=64, pattern="^[A-Za-z0-9._-]+$")]

Command = Callable[[SubjectState | None], Append]
Prepare = Callable[[SubjectState | None], Awaitable[Sequence[Append]]]


class MissingIdempotencyKey(Fault):
    """Every write carries a key of the caller's, so that it may be repeated safely."""

    kind = Kind.INVALID


class LostWrite(Fault):
    """The ledger acknowledged a write earlier and does not have it now."""

    kind = Kind.BROKEN


class Written(msgspec.Struct, frozen=True):
    """A write that is done, now or earlier under the same key."""

    event: LedgerEvent
    receipt: Receipt


class Place(msgspec.Struct, frozen=True):
    """A ledger position as answers show it."""

    incarnation: str
    seq: int


def place(position: Position) -> Place:
    return Place(position.incarnation, position.seq)


def idempotency(client_id: ClientId, key: str | None, method: str, path: str, body: bytes) -> Idempotency:
    """The key with the digest of what it stands for. Raises MissingIdempotencyKey, also where it is malformed."""
    try:
        msgspec.convert(key, IdempotencyKey)
    except msgspec.ValidationError as error:
        raise MissingIdempotencyKey("send an Idempotency-Key header: 8 to 64 of A-Z a-z 0-9 . _ -") from error
    digest = hashlib.sha256(b"\x00".join((method.encode(), path.encode(), body))).digest()
    return Idempotency(client_id, str(key), digest)


async def write(ledger: Ledger, subject: str, command: Command, key: Idempotency) -> Written:
    """Append what the command makes of the subject; tried again, on the newer subject, when somebody was faster.

    Raises what the command raises, VersionConflict after ATTEMPTS, IdempotencyMismatch, LedgerUnavailable.
    """

    async def alone(state: SubjectState | None) -> Sequence[Append]:
        return [command(state)]

    return await write_together(ledger, subject, alone, key)


async def write_together(ledger: Ledger, subject: str, prepare: Prepare, key: Idempotency) -> Written:
    """As `write`, for a subject that changes together with others: all of them or none.

    prepare: reads the others and makes the events, the subject's own last; called anew for each try.
    """
    if (earlier := await recall(ledger, key)) is not None:
        return earlier
    for _ in range(ATTEMPTS - 1):
        with suppress(VersionConflict):
            return await _attempt(ledger, subject, prepare, key)
    return await _attempt(ledger, subject, prepare, key)


async def _attempt(ledger: Ledger, subject: str, prepare: Prepare, key: Idempotency) -> Written:
    state = await ledger.subject(subject)
    try:
        appends = await prepare(state)
    except Fault:
        # The same request may have come twice at once: what the command stumbles over is then its own effect.
        if (earlier := await recall(ledger, key)) is not None:
            return earlier
        raise
    return await _append(ledger, appends, key)


async def recall(ledger: Ledger, key: Idempotency) -> Written | None:
    """What was written under this key before. Raises IdempotencyMismatch where it stood for another request."""
    receipt = await ledger.replayed(key)
    return None if receipt is None else await _read_back(ledger, receipt)


async def _append(ledger: Ledger, appends: Sequence[Append], key: Idempotency) -> Written:
    receipt = await ledger.append(appends, key)
    if receipt.replayed:  # the same request came twice at once, and the other one was first
        return await _read_back(ledger, receipt)
    return Written(decode(appends[-1].body), receipt)


async def _read_back(ledger: Ledger, receipt: Receipt) -> Written:
    stored = await ledger.events(receipt.position.seq - 1, 1)
    if not stored or stored[0].position != receipt.position:
        raise LostWrite("an acknowledged write is not in the ledger", detail=f"seq {receipt.position.seq}")
    return Written(event_of(stored[0]), receipt)
