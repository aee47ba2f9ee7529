"""Which feeder instances the ledger's database knows: whoever may be `current` stands in this table.

An instance is admitted before the position of its first answer is read, and forgotten only when it cannot be
current any more; so a barrier that reads the table after a commit sees everybody who could still answer without it
(architecture: freshness). Times in the table are for people; nothing is decided by comparing clocks.
"""

import enum
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from admin.ledger.reader import read_head
from admin.ledger.schema import instances
from engine.feed.entries import Position
from engine.feed.questions import Question

INSTANCES_PER_NODE: Final = 100  # a feeder that restarts every second leaves eight behind; more are made up
SEEN_EVERY: Final = 1.0  # seconds between writes of "still there" for one instance


class Membership(enum.StrEnum):
    """Stored by its value."""

    IN = "in"
    LEAVING = "leaving"  # struck off: gets no more answers, and is forgotten when its last one is worth nothing


class Member(msgspec.Struct, frozen=True):
    """A row. since, last_seen: seconds since 1970; applied: under the incarnation of the ledger, else below it."""

    instance: str
    node_id: str
    state: Membership
    since: float
    last_seen: float
    applied: int

    @property
    def name(self) -> tuple[str, str]:
        """Node and instance."""
        return self.node_id, self.instance


class View(msgspec.Struct, frozen=True):
    """The ledger's position and all instances, of one moment."""

    position: Position
    members: dict[str, Member]

    def admits(self, question: Question) -> bool:
        """Whether the asker is in, under the node's own name."""
        member = self.members.get(question.instance)
        return member is not None and member.state is Membership.IN and member.node_id == question.node_id

    def applied(self, question: Question) -> int:
        """What the asker has applied of this very ledger; 0 under another incarnation."""
        return question.applied if question.incarnation == self.position.incarnation else 0

    def must_note(self, question: Question, now: float, *, since_seen: float = SEEN_EVERY) -> bool:
        """Whether the table lacks something of what the question says."""
        member = self.members.get(question.instance)
        if member is None:
            siblings = sum(other.node_id == question.node_id for other in self.members.values())
            return siblings < INSTANCES_PER_NODE
        return self.admits(question) and abs(now - member.last_seen) >= since_seen


def read_view(connection: sa.Connection) -> View:
    """Instances first, then the position: whoever is seen as admitted was so before the position was read."""
    rows = connection.execute(sa.select(instances)).all()
    members = {row.instance: _member(row) for row in rows}
    return View(read_head(connection).position, members)


def note(connection: sa.Connection, questions: Sequence[Question], now: float) -> None:
    """Admit whoever is new; write down what those that are in have applied. Those leaving stay as they are."""
    for question in questions:
        applied = _applied_here(connection, question)
        row = {"instance": question.instance, "node_id": question.node_id, "state": Membership.IN.value}
        inserted = _insert(connection).values(**row, since=now, last_seen=now, applied=applied)
        still_in = sa.and_(instances.c.state == Membership.IN.value, instances.c.node_id == question.node_id)
        changes = {"last_seen": now, "applied": applied}
        connection.execute(inserted.on_conflict_do_update(index_elements=["instance"], set_=changes, where=still_in))


def reset_applied(connection: sa.Connection) -> None:
    """Forget what was applied: it may have been under another incarnation. Whoever is there says it again."""
    connection.execute(sa.update(instances).values(applied=0))


def mark_leaving(connection: sa.Connection, silent: Sequence[Member], now: float) -> None:
    """Strike off those of whom nothing was heard since they were read."""
    for member in silent:
        connection.execute(
            sa.update(instances)
            .where(
                instances.c.instance == member.instance,
                instances.c.state == Membership.IN.value,
                instances.c.last_seen == member.last_seen,
            )
            .values(state=Membership.LEAVING.value, since=now)
        )


def forget(connection: sa.Connection, gone: Sequence[Member]) -> None:
    """Remove rows that are still marked as they were read."""
    for member in gone:
        connection.execute(
            sa.delete(instances).where(
                instances.c.instance == member.instance,
                instances.c.state == Membership.LEAVING.value,
                instances.c.since == member.since,
            )
        )


def _applied_here(connection: sa.Connection, question: Question) -> int:
    """Positions of another incarnation are not comparable: they count as nothing."""
    return question.applied if question.incarnation == read_head(connection).position.incarnation else 0


def _insert(connection: sa.Connection) -> Any:  # noqa: ANN401 - the two dialects share no base with on_conflict
    insert = sqlite_insert if connection.dialect.name == "sqlite" else postgres_insert
    return insert(instances)


def _member(row: sa.Row[Any]) -> Member:
    return Member(row.instance, row.node_id, Membership(row.state), row.since, row.last_seen, row.applied)
