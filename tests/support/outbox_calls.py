"""Everything that is ever asked of the outbox's deliveries, by name: so that each statement can be looked at."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from admin.ledger import deliveries as statements
from admin.ledger import outbox_pruning, polling
from admin.ledger.listings import changes_query
from admin.ledger.outbox import Draft, Poll, Push
from admin.ledger.outbox_figures import read_figures
from admin.ledger.pruned_as_of import follow
from admin.ledger.receiver_standing import read_standings
from admin.ledger.schema import deliveries, outbox
from admin.ledger.sequencer import drop_told_of, insert_drafts, take_numbers
from engine.clock import UnixTime
from engine.consent.records import ClientId, Role
from engine.events.facts import VerificationFact
from engine.pusher.service import Fate, Lane, Outcome, Signed

Work = Callable[[sa.Connection], object]
ALIASES: Final = frozenset({"one", "found"})  # of deliveries in statements
PAGE: Final = 500
BEGINNING: Final = -statements.FEW  # as far back as who has seen nothing, however few deliveries there are


class Call(msgspec.Struct, frozen=True):
    """hot: of the way of an event or a poll. Others come each ten seconds, each minute, or when a scraper asks."""

    name: str
    work: Work
    hot: bool = True


class Subject(msgspec.Struct, frozen=True):
    """Of what the calls are made. now: seconds since 1970, when whatever is there is due."""

    client_id: ClientId  # a receiver with deliveries of every kind
    numbers: tuple[int, ...]  # pending deliveries of it
    jtis: tuple[str, ...]  # open ones of it
    clients: tuple[ClientId, ...]
    newest: int
    now: float


def subject_of(connection: sa.Connection, client_id: ClientId, clients: tuple[ClientId, ...], now: float) -> Subject:
    """Look for what is there."""
    own = deliveries.c.client_id == client_id
    pending = sa.select(deliveries.c.number).where(own, deliveries.c.push == int(Push.PENDING)).limit(50)
    opened = sa.select(deliveries.c.jti).where(own, deliveries.c.poll == int(Poll.OPEN)).limit(50)
    return Subject(
        client_id,
        tuple(connection.execute(pending).scalars()),
        tuple(connection.execute(opened).scalars()),
        clients,
        connection.execute(sa.select(outbox.c.numbered)).scalar_one(),
        now,
    )


def calls(of: Subject) -> list[Call]:
    """Each to be made in a transaction of its own, and rolled back."""
    return [*_of_pusher(of), *_of_receiver(of), *_of_sequencer(of), *_of_upkeep(of)]


def _of_pusher(of: Subject) -> list[Call]:
    outcomes = [Outcome(number, Fate.DONE, 1, of.now) for number in of.numbers]
    return [
        *(
            Call(f"fresh, {lane.name.lower()}", lambda c, lane=lane: statements.read_fresh(c, lane, BEGINNING, PAGE))  # type: ignore[misc]  # a default binds it
            for lane in Lane
        ),
        Call("fresh, what came last", lambda c: statements.read_fresh(c, Lane.ORDINARY, of.newest - 10, PAGE)),
        Call("backlog", lambda c: statements.read_backlog(c, of.client_id, Lane.ORDINARY, 0, PAGE)),
        Call("unsigned", lambda c: statements.read_unsigned(c, 0, PAGE)),
        Call("unsigned, bulk", lambda c: statements.read_unsigned(c, 0, PAGE, bulk=True)),
        Call("keep", lambda c: statements.keep(c, [Signed(number, b"a.b.c") for number in of.numbers], of.now)),
        Call("tell", lambda c: statements.tell(c, outcomes)),
        Call("unpark", lambda c: statements.unpark(c, of.client_id, UnixTime(int(of.now)), 1_000)),
    ]


def _of_receiver(of: Subject) -> list[Call]:
    middle = of.newest // 2
    return [
        Call("poll", lambda c: polling.read_open(c, of.client_id, 100)),
        Call("poll, who has something", lambda c: polling.read_with_open(c, of.clients)),
        Call("acknowledge", lambda c: polling.settle(c, of.client_id, of.jtis, {}, of.now)),
        Call("changes", lambda c: c.execute(changes_query(of.client_id, middle, of.newest, 100)).all()),
    ]


def _of_sequencer(of: Subject) -> list[Call]:
    return [
        Call("deliveries made", lambda c: insert_drafts(c, [_draft(of)], take_numbers(c, 1), of.now)),
        Call("stream deleted", lambda c: drop_told_of(c, {"s": of.client_id})),
        Call("stream changed", lambda c: drop_told_of(c, {}, ["s"])),
    ]


def _of_upkeep(of: Subject) -> list[Call]:
    day = outbox_pruning.DAY
    upkeep: dict[str, Work] = {
        "all standings": read_standings,
        "figures": lambda c: read_figures(c, of.now),
        "prune, as of when": lambda c: _anew(c, of.now),
        "prune, close polls": lambda c: outbox_pruning.close_polls(c, of.now - 7 * day),
        "prune, drop orphans": outbox_pruning.drop_orphans,
        "prune, park untried": lambda c: outbox_pruning.park_untried(c, of.now),
        "prune, erase payloads": lambda c: outbox_pruning.erase_payloads(c, of.now - 90 * day),
        "prune, forget results": lambda c: outbox_pruning.forget_results(c, of.now - 396 * day),
    }
    return [Call(name, work, hot=False) for name, work in upkeep.items()]


def _anew(connection: sa.Connection, now: float) -> float:
    connection.execute(sa.update(outbox).values(pruned_as_of=None))
    return follow(connection, now)


def _draft(of: Subject) -> Draft:
    fact: Any = VerificationFact("no-such-stream", UnixTime(int(of.now)), None, None)
    ways = Push.PENDING, Poll.NONE
    return Draft(of.client_id, Role.EDP, Lane.ORDINARY, 0, 0, "none-yet", "t", "no-such-stream", of.now, fact, *ways)
