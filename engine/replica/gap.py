"""What a node knows that a restored ledger has lost: found in its old replica, kept in the new one, told to the ledger.

Two things happen at a change of incarnation, and the order matters. First what was touched in the gap is *told*, again
and again until it is taken; then what had ended is *kept*, and only then the new replica comes into use and the old
one is deleted. A node that is killed in between finds its old replica again and tells the same under the same keys.

Touched is whatever the old replica holds with a position above the last one that the restored ledger kept.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import trio

from engine.backoff import Backoff
from engine.clock import Seconds
from engine.consent.records import POLICY_KEY, ConsentRecord, ParticipantRecord, TokenRevocation
from engine.consent.recovery import Past
from engine.consent.states import ENDED
from engine.errors import Fault, Kind
from engine.feed.entries import EntryKind, Position
from engine.feed.gap_reports import PIECE, GapReport, TouchedConsent, TouchedParticipant, TouchedToken
from engine.replica import layout
from engine.replica.environment import Environment, WriteTransaction
from engine.replica.layout import STAMP_BYTES, BrokenReplica, stamp, stamped_at
from engine.replica.service import FeedService
from engine.replica.store import put_participant
from engine.telemetry.logs import logger

RETRY: Final = Backoff(first=Seconds(0.2), limit=Seconds(5.0))

_consent = msgspec.msgpack.Decoder(ConsentRecord).decode
_participant = msgspec.msgpack.Decoder(ParticipantRecord).decode
_revocation = msgspec.msgpack.Decoder(TokenRevocation).decode
_log = logger("feeder")

Kept = tuple[EntryKind, bytes]
Touched = TouchedConsent | TouchedToken


def past_of_replica(environment: Environment) -> Past:
    """The ledger's restores as a replica has them. Raises BrokenReplica."""
    with environment.lmdb.begin() as txn:
        return layout.past_in(tuple(txn.cursor(environment.recovery)))


def keep(old: Environment, new: Environment, position: Position, past: Past, known_under: str) -> list[Kept]:
    """Carry into a new incarnation what the old one had ended and the new one has not; returns what was kept.

    A ledger that was restored with loss may have forgotten revocations and suspensions that this node has heard of; a
    node never goes back on one. Each is kept at a position not above the snapshot's, so that the new incarnation's
    next word on it is the last.
    """
    kept_to = _kept_to(past, known_under)
    with old.lmdb.begin() as reading, new.writing() as txn:
        return [
            *_keep_consents(reading, old, txn, new, position.seq),
            *_keep_tokens(reading, old, txn, new, position.seq),
            *_keep_suspensions(reading, old, txn, new, position.seq, kept_to),
        ]


def reports_of(
    old: Environment, new: Environment, past: Past, *, node_id: str, known: Position, missing_under: str
) -> list[GapReport]:
    """What to tell, in parts; at least one, which may say that nothing was touched.

    known: where the old replica stood. Without a restore that names its incarnation only what has ended is told.
    """
    kept_to = _kept_to(past, known.incarnation)
    with old.lmdb.begin() as reading, new.lmdb.begin() as there:
        consents = list(_touched_consents(reading, old, there, new, kept_to))
        touched: list[Touched] = [*consents, *_touched_tokens(reading, old, there, new)]
        participants = tuple(_touched_participants(reading, old, there, new, kept_to))
        policy = _was_touched(reading.get(POLICY_KEY, db=old.policy), kept_to)
    pieces = [touched[start : start + PIECE] for start in range(0, len(touched), PIECE)] or [[]]
    return [
        GapReport(
            node_id,
            known.incarnation,
            known.seq,
            missing_under,
            part,
            len(pieces),
            tuple(one for one in piece if isinstance(one, TouchedConsent)),
            tuple(one for one in piece if isinstance(one, TouchedToken)),
            participants if part == len(pieces) else (),
            policy,
            len(consents),
        )
        for part, piece in enumerate(pieces, 1)
    ]


async def tell(service: FeedService, reports: Sequence[GapReport], jitter: Callable[[], float]) -> None:
    """Send each until it is taken; one that is refused for good is told in the log and left.

    The key is drawn from the body, so that a feeder that comes again tells the same thing once.
    """
    for item in reports:
        body, failures = msgspec.json.encode([item]), 0
        while True:
            try:
                await service.report(hashlib.sha256(body).hexdigest(), body)
                break
            except Fault as fault:
                if fault.kind is not Kind.UNAVAILABLE:
                    _log.error("gap_report_refused", text=fault.text, detail=fault.detail, part=item.part)
                    break
                failures += 1
            await trio.sleep(RETRY.delay(failures, jitter()))
    _log.warning("gap_told", parts=len(reports), known_to=reports[-1].known_to, known_under=reports[-1].known_under)


def _kept_to(past: Past, known_under: str) -> int | None:
    """Up to where the ledger kept the events of an incarnation; None: no restore names it."""
    found = past.restores.get(known_under)
    return None if found is None else found[1].restored_seq


def _was_touched(value: bytes | None, kept_to: int | None) -> bool:
    return value is not None and kept_to is not None and stamped_at(value) > kept_to


def _touched_consents(
    reading: WriteTransaction, old: Environment, there: WriteTransaction, new: Environment, kept_to: int | None
) -> Iterator[TouchedConsent]:
    for key, value in reading.cursor(old.consents):
        ended = _is_ended(value)
        touched = _was_touched(value, kept_to)
        if touched or (ended and not _is_ended(there.get(key, b"", db=new.consents))):
            yield _told(key, value)


def _told(key: bytes, value: bytes) -> TouchedConsent:
    try:
        record = _consent(value[STAMP_BYTES:])
    except msgspec.MsgspecError as error:
        raise BrokenReplica("a consent of the old replica cannot be read", detail=str(error)) from error
    return TouchedConsent(
        str(uuid.UUID(bytes=key)),
        record.state.name.lower(),
        stamped_at(value),
        record.expires_at,
        record.data_from,
        record.data_to,
        (record.atp, *record.edps),
    )


def _touched_tokens(
    reading: WriteTransaction, old: Environment, there: WriteTransaction, new: Environment
) -> Iterator[TouchedToken]:
    for key, value in reading.cursor(old.token_revocations):
        if there.get(key, db=new.token_revocations) is None:
            yield TouchedToken(key.hex(), _revocation(value[STAMP_BYTES:]).expires_at)


def _touched_participants(
    reading: WriteTransaction, old: Environment, there: WriteTransaction, new: Environment, kept_to: int | None
) -> Iterator[TouchedParticipant]:
    for key, value in reading.cursor(old.participants):
        known = there.get(key, b"", db=new.participants)
        if _was_touched(value, kept_to) and known[STAMP_BYTES:] != value[STAMP_BYTES:]:
            yield TouchedParticipant(key.decode(), _participant(value[STAMP_BYTES:]).suspended)


def _keep_consents(
    reading: WriteTransaction, old: Environment, txn: WriteTransaction, new: Environment, limit: int
) -> Iterator[Kept]:
    for key, value in reading.cursor(old.consents):
        if _is_ended(value) and not _is_ended(txn.get(key, b"", db=new.consents)):
            txn.put(key, _not_above(value, limit), db=new.consents)
            yield EntryKind.CONSENT, key


def _keep_tokens(
    reading: WriteTransaction, old: Environment, txn: WriteTransaction, new: Environment, limit: int
) -> Iterator[Kept]:
    for key, value in reading.cursor(old.token_revocations):
        if txn.put(key, _not_above(value, limit), db=new.token_revocations, overwrite=False):
            yield EntryKind.TOKEN_REVOCATION, key


def _keep_suspensions(
    reading: WriteTransaction,
    old: Environment,
    txn: WriteTransaction,
    new: Environment,
    limit: int,
    kept_to: int | None,
) -> Iterator[Kept]:
    """Of participants that were suspended in the gap, unless the new incarnation has written about them since."""
    for key, value in reading.cursor(old.participants):
        there = txn.get(key, b"", db=new.participants)
        if kept_to is None or not _was_touched(value, kept_to) or not there or stamped_at(there) > kept_to:
            continue
        record = _participant(there[STAMP_BYTES:])
        if _participant(value[STAMP_BYTES:]).suspended and not record.suspended:
            suspended = msgspec.msgpack.encode(msgspec.structs.replace(record, suspended=True))
            put_participant(txn, new, key, min(limit, stamped_at(value)), suspended)
            yield EntryKind.PARTICIPANT, key


def _not_above(value: bytes, limit: int) -> bytes:
    return stamp(min(limit, stamped_at(value)), value[STAMP_BYTES:])


def _is_ended(value: bytes) -> bool:
    try:
        return _consent(value[STAMP_BYTES:]).state in ENDED
    except msgspec.MsgspecError:
        return False
