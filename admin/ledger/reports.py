"""What nodes and guards report: counts, security events, evidence of shares. Taken once per key, kept as it came.

Nodes spool reports and send them again until they are acknowledged; so the same key with the same body is answered
as the first time, and the same key with another body is refused.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import Meta
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from admin.ledger.database import Database
from admin.ledger.schema import reports
from engine.consent.records import ClientId
from engine.errors import Fault, Kind

MAX_REPORTS: Final = 10_000  # in one body: what a node collects in a minute at full load
ReportKey = Annotated[str, Meta(min_length=8, max_length=64, pattern="^[A-Za-z0-9._-]+$")]

_array: Final = msgspec.json.Decoder(list[msgspec.Raw])


class BadReport(Fault):
    """No JSON array, too many members, or a key that is missing or malformed."""

    kind = Kind.INVALID


class ReportMismatch(Fault):
    """The key was used before with another body."""

    kind = Kind.CONFLICT


class Reports:
    """wall: seconds since 1970."""

    def __init__(self, database: Database, wall: Callable[[], float]) -> None:
        self._database = database
        self._wall = wall

    async def take(self, client_id: ClientId, key: str | None, body: bytes) -> bool:
        """Keep a body; False = it was here already. Raises BadReport, ReportMismatch, LedgerUnavailable."""
        row = {"client_id": client_id, "idempotency_key": _checked_key(key), "body": body, "received_at": self._wall()}
        _check_body(body)
        return await self._database.run(lambda connection: _take(connection, row))


def _take(connection: sa.Connection, row: dict[str, Any]) -> bool:
    inserted = _insert(connection).values(**row).on_conflict_do_nothing().returning(reports.c.received_at)
    if connection.execute(inserted).first() is not None:  # an insert's rowcount says nothing on PostgreSQL
        return True
    same = sa.select(reports.c.body).where(
        reports.c.client_id == row["client_id"], reports.c.idempotency_key == row["idempotency_key"]
    )
    if connection.execute(same).scalar_one() != row["body"]:
        raise ReportMismatch("this key was used before with another body")
    return False


def _checked_key(key: str | None) -> str:
    try:
        return msgspec.convert(key, ReportKey)
    except msgspec.ValidationError as error:
        raise BadReport("send an Idempotency-Key header: 8 to 64 of A-Z a-z 0-9 . _ -") from error


def _check_body(body: bytes) -> None:
    try:
        count = len(_array.decode(body))
    except msgspec.MsgspecError as error:
        raise BadReport("send a JSON array", detail=str(error)) from error
    if count > MAX_REPORTS:
        raise BadReport(f"send at most {MAX_REPORTS} reports at once")


def _insert(connection: sa.Connection) -> Any:  # noqa: ANN401 - the two dialects share no base with on_conflict
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgres_insert
    return insert(reports)
