"""Ledgers for tests: settings with keys of their own, a clock moved by hand, and events to append."""

import hashlib
from pathlib import Path
from typing import Literal
from uuid import UUID

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from admin.config import Ledger
from admin.ledger.store import Append, FeedRecord, Idempotency, Personal
from admin.pki.key_files import write_private
from engine.clock import BootTime, UnixTime
from engine.feed.entries import EntryKind


class HandClock:
    """Stands still until moved."""

    def __init__(self, now: int = 1_800_000_000) -> None:
        self.time = now

    def now(self) -> UnixTime:
        return UnixTime(self.time)

    def boot(self) -> BootTime:
        return BootTime(float(self.time))

    def wall(self) -> float:
        return self.time + 0.25


_SETTINGS = """\
introspection-endpoint = "https://localhost:8440/introspect"

[ledger]
url = "{url}"
kind = "sandbox"
person-key-file = "{directory}/person.key"
checkpoint-key-file = "{directory}/checkpoint.pem"

[issuer]
issuer = "https://localhost:8450"
key-files = []

[web.tls]
certificate-file = "none"
key-file = "none"
client-ca-file = "none"

[feed]
mac-key-files = []
meter-key-file = "none"
"""


def ledger_config(directory: Path, url: str, kind: Literal["sandbox", "production"] = "sandbox") -> Ledger:
    """Settings of a ledger; the keys are made once per directory."""
    person, checkpoint = directory / "person.key", directory / "checkpoint.pem"
    if not person.exists():
        write_private(person, hashlib.sha256(b"person key of the tests").digest())
        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        write_private(checkpoint, pem)
    return Ledger(url=url, kind=kind, person_key_file=person, checkpoint_key_file=checkpoint)


def settings_text(directory: Path, url: str) -> str:
    """A settings file of the admin application whose ledger is that of `ledger_config`; the rest is never opened."""
    return _SETTINGS.format(url=url, directory=directory)


def change(
    number: int, version: int = 0, *, person: str | None = None, body: bytes = b"\x80", feed: bool = True
) -> Append:
    """An event about subject `number`, which had `version` before."""
    key = UUID(int=number).bytes
    return Append(
        subject=f"consent:{UUID(int=number)}",
        tag="consent.granted" if version == 0 else "consent.renewed",
        expected_version=version,
        body=body,
        personal=Personal(person, b"meter points of " + person.encode()) if person else None,
        feed=FeedRecord(EntryKind.CONSENT, key, b"record %d" % version) if feed else None,
    )


def used(key: str, body: bytes = b"request", client: str = "atp-1") -> Idempotency:
    """An idempotency key with the digest of a request."""
    return Idempotency(client, key, hashlib.sha256(body).digest())


def tamper(url: str, *statements: sa.Executable) -> None:
    """Change the database as only somebody who has it in hand could: with the triggers gone."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for table in ("events", "checkpoints"):
            if connection.dialect.name == "sqlite":
                for action in ("update", "delete", "replace"):
                    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_no_{action}")
            else:
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table}_only_grows ON {table}")
        for statement in statements:
            connection.execute(statement)
    engine.dispose()
