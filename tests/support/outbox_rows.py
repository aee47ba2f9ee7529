"""An outbox filled by hand, row by row: whatever state receivers and deliveries may be in, drawn from a seed."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from admin.ledger.outbox import Poll, Push
from admin.ledger.schema import deliveries, outbox, receivers, streams
from engine.clock import UnixTime
from engine.consent.records import ClientId, FallbackSuspension, ParticipantRecord, Role
from engine.events.facts import VerificationFact
from engine.pusher.service import Lane
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

AT = 1_800_000_000
DAY = 86_400
_encode = msgspec.msgpack.Encoder().encode
FACT = _encode(VerificationFact("s", UnixTime(AT), None, None))


class Filling(msgspec.Struct, frozen=True):
    """receivers: how many. deliveries: over all of them. days: how long ago the oldest was committed."""

    receivers: int
    deliveries: int
    days: int = 10


def fill(connection: sa.Connection, filling: Filling, seed: int) -> None:
    """Put it into an outbox that has a row and nothing else. The same seed makes the same."""
    draw = random.Random(seed)  # noqa: S311 - repeatable on purpose
    names = [f"{draw.choice(('atp', 'edp'))}-{number:04}" for number in range(filling.receivers)]
    connection.execute(sa.update(outbox).values(rows_from=AT - filling.days * DAY, numbered=filling.deliveries))
    connection.execute(sa.insert(receivers), [_receiver(draw, name) for name in names])
    connection.execute(sa.insert(streams), [row for name in names for row in _streams(draw, name)])
    rows = [_delivery(draw, number, names, filling) for number in range(1, filling.deliveries + 1)]
    connection.execute(sa.insert(deliveries), rows)


def _receiver(draw: random.Random, name: str) -> dict[str, Any]:
    at, oldest = UnixTime(AT - draw.randrange(10 * DAY)), draw.randrange(300)
    suspended = FallbackSuspension(at, oldest) if name.startswith("edp") and draw.random() < 0.4 else None
    role = Role.EDP if name.startswith("edp") else Role.ATP
    record = ParticipantRecord(
        ClientId(name), role, suspended=draw.random() < 0.1, certificates=(), fallback_suspended=suspended
    )
    pushable = int(draw.random() < 0.7)
    return {"client_id": name, "last_seq": draw.randrange(400), "pushable": pushable, "record": _encode(record)}


def _streams(draw: random.Random, name: str) -> list[dict[str, Any]]:
    """Both, one of the two, or none."""
    role = Role.EDP if name.startswith("edp") else Role.ATP
    ways = draw.choice(((), (DeliveryMethod.PUSH,), (DeliveryMethod.POLL,), tuple(DeliveryMethod)))
    made = [
        StreamRecord(
            f"{name}-{int(way)}", ClientId(name), role, way, draw.choice(list(StreamStatus)), "https://x.example"
        )
        for way in ways
    ]
    return [{"stream_id": one.stream_id, "client_id": name, "record": _encode(one)} for one in made]


def _delivery(draw: random.Random, number: int, names: Sequence[str], filling: Filling) -> dict[str, Any]:
    """Commits rise with numbers, as the sequencer gives them out."""
    committed_at = AT - filling.days * DAY * (1 - number / filling.deliveries) - draw.random()
    tried_at = committed_at + draw.random() * DAY
    attempts = draw.choice((0, 0, 1, 9))
    return {
        "number": number, "client_id": draw.choice(names), "role": 2, "lane": int(draw.choice(list(Lane))),
        "seq": 0 if draw.random() < 0.1 else number, "prev": 0, "jti": f"j{number}", "txn": "t", "subject": "s",
        "committed_at": committed_at, "fact": FACT, "compact": b"c" if draw.random() < 0.7 else None,
        "signed_at": None, "push": int(draw.choice(list(Push))), "attempts": attempts,
        "next_at": draw.choice((0.0, tried_at)), "tried_at": tried_at if attempts else None,
        "error": draw.choice(("", "tls", "timeout")), "poll": int(draw.choice(list(Poll))),
        "polled_at": tried_at if draw.random() < 0.5 else None, "poll_error": "",
    }  # fmt: skip


def read_all(connection: sa.Connection, table: sa.Table) -> list[dict[str, Any]]:
    """Every row of a table, in the order of its key."""
    rows = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
    return [dict(row._mapping) for row in rows]
