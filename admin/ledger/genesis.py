"""How a ledger begins, and what is checked each time it is opened.

A new ledger draws its incarnation and writes its first event, which says for ever whether it is a sandbox. That a
database is empty may also mean that a ledger was lost, so a new one begins only where somebody says so. An existing
one must be of the kind that the settings name: a production service never opens a sandbox's ledger, nor the other way
round.
"""

import hmac
import secrets
from typing import Any, Final, Literal

import sqlalchemy as sa

from admin.ledger import migrations
from admin.ledger.admission import Admission, Write
from admin.ledger.bulk import NoLedger, bulk_for
from admin.ledger.chain import NO_HASH
from admin.ledger.events import LedgerCreated, UnreadableEvent, decode, encode, subject_of, tag_of
from admin.ledger.personal import PersonKey, Safe
from admin.ledger.schema import events, ledger_meta, person_keys
from admin.ledger.store import Append, Head
from engine.clock import UnixTime
from engine.errors import Fault, Kind
from engine.feed.entries import Position

HOW_TO_BEGIN: Final = "restore the one that was lost, or begin a new one with `ccs ledger create`"

LedgerKind = Literal["sandbox", "production"]

_TRIED: Final = 1_000  # persons' keys: should some be damaged, another one tells


class WrongLedger(Fault):
    """The database holds another ledger than the one that was asked for."""

    kind = Kind.CONFLICT


class WrongPersonKey(Fault):
    """The settings name another wrapping key than the one that this ledger's personal fields need."""

    kind = Kind.INVALID


class UnsafeDatabase(Fault):
    """The database may lose what it acknowledged."""

    kind = Kind.BROKEN


class LedgerExists(Fault):
    """A new ledger is begun in a database without one only."""

    kind = Kind.CONFLICT


def open_or_create(connection: sa.Connection, kind: LedgerKind, now: UnixTime, *, may_begin: bool = True) -> None:
    """Migrate, create the ledger if there is none, and check that it is the right one.

    may_begin: else a database without a ledger stays as it is. Call in a thread, in a read-write transaction. Raises
    WrongLedger, UnsafeDatabase, NoLedger.
    """
    try:
        migrations.upgrade(connection)
    except migrations.UnknownRevision as error:
        raise WrongLedger("the database was last used by a newer program", detail=str(error)) from error
    if kind == "production":
        _refuse_unsafe(connection)
    if connection.execute(sa.select(ledger_meta.c.id)).first() is None:
        if not may_begin:
            raise NoLedger("the database holds no ledger: " + HOW_TO_BEGIN)
        _create(connection, kind, now)
    check_kind(connection, kind)


def check_person_key(connection: sa.Connection, safe: Safe) -> None:
    """Compare the wrapping key with the one this ledger began with; a ledger that knows none takes it, if it fits.

    Without this a wrong key would be noticed only by the first person whose fields do not open, after others were
    written under it. Call as `open_or_create`. Raises WrongPersonKey.
    """
    known = connection.execute(sa.select(ledger_meta.c.key_check)).scalar_one()
    fits = _opens_any(connection, safe) if known is None else hmac.compare_digest(known, safe.check_value)
    if not fits:
        raise WrongPersonKey("person-key-file: this is not the key that wraps the persons' keys of this ledger")
    if known is None:
        connection.execute(sa.update(ledger_meta).values(key_check=safe.check_value))


def _opens_any(connection: sa.Connection, safe: Safe) -> bool:
    query = sa.select(person_keys.c.person_id, person_keys.c.key_id, person_keys.c.wrapped_key).limit(_TRIED)
    rows = connection.execute(query).all()
    return not rows or any(safe.opens(PersonKey(*row)) for row in rows)


def check_kind(connection: sa.Connection, kind: LedgerKind) -> None:
    """Compare the first event with the kind that was asked for. Raises WrongLedger."""
    found = kind_of(connection)
    if found != kind:
        raise WrongLedger(f"this is a {found} ledger, the settings ask for a {kind} one")


def kind_of(connection: sa.Connection) -> LedgerKind:
    """What the first event says. Raises WrongLedger when it is no first event."""
    body = connection.execute(sa.select(events.c.body).order_by(events.c.seq).limit(1)).scalar()
    try:
        first = decode(body or b"")
    except UnreadableEvent as fault:
        raise WrongLedger("the ledger's first event cannot be read", detail=fault.detail) from fault
    if not isinstance(first, LedgerCreated):
        raise WrongLedger("the ledger does not begin with its creation")
    return first.kind


def _create(connection: sa.Connection, kind: LedgerKind, now: UnixTime) -> None:
    incarnation = secrets.token_hex(8)
    empty = Head(Position(incarnation, 0), NO_HASH)
    values: dict[str, Any] = {"id": 1, "incarnation": incarnation, "kind": kind, "created_at": now}
    connection.execute(sa.insert(ledger_meta).values(**values, head_seq=0, head_hash=NO_HASH))
    first = LedgerCreated(kind, incarnation, now)
    admission = Admission(empty, {}, {}, lambda _event, _version: b"", now, float(now))
    admission.admit(Write((Append(subject_of(first), tag_of(first), 0, encode(first)),)))
    bulk = bulk_for(connection)
    bulk.insert_events(admission.rows)
    bulk.advance(0, admission.head)


def _refuse_unsafe(connection: sa.Connection) -> None:
    """A production ledger rests on the disk's word; a server that does not wait for it is refused."""
    if connection.dialect.name == "postgresql" and connection.exec_driver_sql("SHOW fsync").scalar() != "on":
        raise UnsafeDatabase("PostgreSQL runs with fsync off: it may lose acknowledged writes")
