"""A real ledger in a file, with made-up consents, and what stands between it and Redis."""

import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from admin.config import Ledger as LedgerConfig
from admin.ledger.feed_copy import FeedCopy
from admin.ledger.projector import Projector
from admin.ledger.records_filler import RecordsFiller
from admin.ledger.sealing import Sealer
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import Append, FeedRecord
from engine.clock import UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentId, ConsentRecord, ParticipantRecord, Role, consent_key
from engine.consent.states import State
from engine.feed.entries import EntryKind
from engine.feed.redis_client import Subscription
from engine.feed.redis_commands import Executor
from engine.feed.redis_link import Credentials
from engine.feed.redis_names import ASKED
from engine.feed.topology import topology_of
from engine.telemetry.host import SystemClock

MAC_KEY = b"m" * 32
SEALER = Sealer((MAC_KEY,))
FAR = UnixTime(4_000_000_000)
_encode = msgspec.msgpack.Encoder().encode
_tokens = itertools.count(1)


def ledger_config(directory: Path, url: str | None = None) -> LedgerConfig:
    """Settings of a sandbox ledger below the directory; its keys are made once."""
    person, checkpoint = directory / "person.key", directory / "checkpoint.pem"
    if not person.exists():
        person.write_bytes(b"p" * 32)
        person.chmod(0o600)
        checkpoint.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        checkpoint.chmod(0o600)
    return LedgerConfig(
        url=url or f"sqlite:///{directory / 'ledger.db'}",
        kind="sandbox",
        person_key_file=person,
        checkpoint_key_file=checkpoint,
    )


@asynccontextmanager
async def real_ledger(directory: Path, url: str | None = None) -> AsyncIterator[SqlLedger]:
    """A ledger in a file below the directory, or at the URL."""
    async with open_ledger(ledger_config(directory, url), SystemClock()) as ledger:
        yield ledger


def consent_record(**changes: Any) -> ConsentRecord:
    """An active, enduring consent of edp-1 and edp-2."""
    usual = ConsentRecord(
        state=State.ACTIVE,
        consent_version=1,
        atp=ClientId("atp-1"),
        dataset_id="half-hourly",
        access_mode=AccessMode.ENDURING,
        granted_at=UnixTime(1_700_000_000),
        expires_at=FAR,
        data_from=UnixTime(1_700_000_000),
        data_to=None,
        meter_digests=(b"d" * 16,),
        edps=(ClientId("edp-1"), ClientId("edp-2")),
    )
    return msgspec.structs.replace(usual, **changes)


def consent_event(consent_id: str, record: ConsentRecord, version: int = 0) -> Append:
    """An event that leaves the consent as the record says. version: of the consent before it."""
    feed = FeedRecord(EntryKind.CONSENT, consent_key(ConsentId(consent_id)), _encode(record))
    tag = "consent.granted" if version == 0 else "consent.revoked"
    return Append(f"consent:{consent_id}", tag, version, b"\x90", feed=feed)


def new_consents(count: int, **changes: Any) -> list[Append]:
    """Events that grant so many new consents."""
    return [consent_event(str(uuid.uuid4()), consent_record(**changes)) for _ in range(count)]


def participant_event(client_id: str, role: Role = Role.NODE, *, version: int = 0, suspended: bool = False) -> Append:
    """A participant as it is after the event."""
    return participant_record_event(ParticipantRecord(ClientId(client_id), role, suspended, ()), version=version)


def participant_record_event(record: ParticipantRecord, *, version: int = 0) -> Append:
    """The participant is as the record says after the event."""
    feed = FeedRecord(EntryKind.PARTICIPANT, record.client_id.encode(), _encode(record))
    return Append(f"participant:{record.client_id}", "participant.registered", version, b"\x90", feed=feed)


def silent_event() -> Append:
    """An event that means nothing to engines."""
    return Append(f"note:{uuid.uuid4()}", "note.taken", 0, b"\x90")


async def append_all(ledger: SqlLedger, events: Sequence[Append], *, group: int = 1_000) -> None:
    """Append in groups, each one write."""
    for start in range(0, len(events), group):
        await ledger.append(events[start : start + group])


def draw_token() -> bytes:
    """Tokens for leases: different, and the same in every run."""
    return b"token-%d" % next(_tokens)


def projector_of(ledger: SqlLedger, redis: Executor, *, bound: int = 100_000, sealer: Sealer = SEALER) -> Projector:
    """A projector with no luck in its retries. Start its `run` in the test's nursery."""
    copy = FeedCopy(redis)
    filler = RecordsFiller(ledger, copy, sealer, draw_token=draw_token)
    return Projector(ledger, copy, sealer, filler, bound=bound, jitter=lambda: 0.5)


def subscription_of(url: str) -> Subscription:
    """The hints that somebody asked. Start its `run` in the test's nursery."""
    nobody = Credentials()
    topology = topology_of(url, credentials=nobody)
    return Subscription(topology, [ASKED], credentials=nobody, tls=None, name="asked", jitter=lambda: 0.5)
