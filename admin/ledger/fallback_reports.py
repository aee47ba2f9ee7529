"""Reported fallback shares in the table of reports: each share once for ever, each report answered as the first time.

A share stands under its EDP and evidence id, a report under its EDP and idempotency key, with the digest of what was
asked and the answer. Their keys in the table begin with a word and a colon, which no key that a caller chooses holds.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from admin.ledger.database import Database
from admin.ledger.reports import ReportMismatch
from admin.ledger.schema import reports
from engine.clock import Seconds
from engine.consent.records import ClientId
from engine.errors import Fault, Kind

SHARE: Final = "fallback-share:"
REPORT: Final = "fallback-report:"
PER_MINUTE: Final = 60  # new reports of one EDP, of a hundred shares each; its reports of other minutes do not count
MINUTE: Final = Seconds(60.0)
_DIGEST_BYTES: Final = 32


class TooManyReports(Fault):
    """This EDP has reported as often as it may within a minute; nothing of this call was taken."""

    kind = Kind.TOO_MANY

    def __init__(self, retry_after: Seconds) -> None:
        super().__init__(f"at most {PER_MINUTE} reports a minute")
        self.retry_after = retry_after


class KeptShare(msgspec.Struct, frozen=True):
    """A row. body: as whoever wrote it encoded it. received_at: seconds since 1970."""

    client_id: ClientId
    evidence_id: str
    body: bytes
    received_at: float


class FallbackReports:
    """wall: seconds since 1970."""

    def __init__(self, database: Database, wall: Callable[[], float]) -> None:
        self._database = database
        self._wall = wall

    async def take(
        self,
        client_id: ClientId,
        key: str,
        digest: bytes,
        shares: Mapping[str, bytes],
        answer: Callable[[Mapping[str, bytes]], bytes],
    ) -> tuple[bytes, bool]:
        """Keep shares by their evidence ids; the answer, and whether it was given before.

        digest: of what was asked, 32 bytes. answer: made from those that were there before, under the bodies they have.
        Raises ReportMismatch where the key stood for something else, TooManyReports, LedgerUnavailable.
        """
        now = self._wall()

        def work(connection: sa.Connection) -> tuple[bytes, bool]:
            earlier = _recall(connection, client_id, key, digest)
            if earlier is not None:
                return earlier, True
            _refuse_too_many(connection, client_id, now)
            before = {}
            for evidence_id, body in sorted(shares.items()):  # in one order: no two calls wait for each other
                kept = _keep(connection, client_id, SHARE + evidence_id, body, now)
                if kept is not None:
                    before[evidence_id] = kept
            made = answer(before)
            kept = _keep(connection, client_id, REPORT + key, digest + made, now)
            if kept is not None:  # the same call came twice at once
                return _answer_in(kept, digest), True
            return made, False

        return await self._database.run(work)

    async def newest(self, limit: int, client_id: ClientId | None = None) -> list[KeptShare]:
        """Those received last, the newest first. client_id: of one EDP only. Raises LedgerUnavailable."""
        query = (
            sa.select(reports)
            .where(reports.c.idempotency_key.startswith(SHARE))
            .order_by(reports.c.received_at.desc(), reports.c.idempotency_key)
            .limit(limit)
        )
        if client_id is not None:
            query = query.where(reports.c.client_id == client_id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [
            KeptShare(row.client_id, row.idempotency_key.removeprefix(SHARE), row.body, row.received_at) for row in rows
        ]


def _refuse_too_many(connection: sa.Connection, client_id: str, now: float) -> None:
    """Counted in the table, so it holds over all instances; those that meet may be let through a few beyond it."""
    newest = (
        sa.select(reports.c.received_at)
        .where(
            reports.c.client_id == client_id,
            reports.c.idempotency_key.startswith(REPORT),
            reports.c.received_at > now - MINUTE,
            reports.c.received_at <= now,  # a clock that was set back does not shut anybody out
        )
        .order_by(reports.c.received_at.desc())
        .limit(PER_MINUTE)
    )
    times = connection.execute(newest).scalars().all()
    if len(times) == PER_MINUTE:
        raise TooManyReports(Seconds(max(1.0, times[-1] + MINUTE - now)))


def _recall(connection: sa.Connection, client_id: str, key: str, digest: bytes) -> bytes | None:
    kept = _body(connection, client_id, REPORT + key)
    return None if kept is None else _answer_in(kept, digest)


def _answer_in(kept: bytes, digest: bytes) -> bytes:
    if kept[:_DIGEST_BYTES] != digest:
        raise ReportMismatch("this key was used before with another body")
    return kept[_DIGEST_BYTES:]


def _keep(connection: sa.Connection, client_id: str, key: str, body: bytes, now: float) -> bytes | None:
    """None = it is kept now; else what is there already."""
    row = {"client_id": client_id, "idempotency_key": key, "body": body, "received_at": now}
    inserted = _insert(connection).values(**row).on_conflict_do_nothing().returning(reports.c.received_at)
    if connection.execute(inserted).first() is not None:  # an insert's rowcount says nothing on PostgreSQL
        return None
    return _body(connection, client_id, key)


def _body(connection: sa.Connection, client_id: str, key: str) -> bytes | None:
    query = sa.select(reports.c.body).where(reports.c.client_id == client_id, reports.c.idempotency_key == key)
    found: bytes | None = connection.execute(query).scalar_one_or_none()
    return found


def _insert(connection: sa.Connection) -> Any:  # noqa: ANN401 - the two dialects share no base with on_conflict
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgres_insert
    return insert(reports)
