"""Mistakes of the code's own: what somebody might do to it who means well."""

import contextvars
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa
import trio

from admin.ledger import barrier as barriers
from admin.ledger.admission import Write
from admin.ledger.bulk import SqliteBulk
from admin.ledger.feed_copy import FeedCopy
from admin.ledger.instances import Member, Membership, View
from admin.ledger.presence import Presence
from admin.ledger.register import Register
from admin.ledger.sealing import Sealed
from admin.ledger.sql import SqlLedger
from admin.ledger.transaction import Outcome
from engine.clock import BootTime, Seconds, UnixTime
from engine.decision import decide as decisions
from engine.decision import freshness as freshnesses
from engine.decision.freshness import MAX_SILENCE, Bound, Finding, FreshnessState
from engine.errors import Fault
from engine.feed.entries import Position
from engine.feed.questions import Question
from engine.listener import introspection
from engine.listener.introspection import Introspection
from engine.replica import feeder as feeders
from engine.replica import reader
from engine.replica.asking import Asked, Asking
from engine.replica.follower import Follower
from tests.world.simulation.mistake import Mistake, replaced, together
from tests.world.simulation.workers import PointedClock

_earned = Asking.earned


def _hasty(self: Asking, applied: int) -> Asked | None:
    return _earned(self, max(applied, self.head))


_silent = Presence.silent


def _silent_soon(self: Presence, members: Any, now: float) -> list[Member]:
    known = list(members)
    _silent(self, known, now)
    return [m for m in known if m.state is Membership.IN and now - self._heard[m.name].at > 0.3]


def _expired_at_once(_self: Presence, members: Any, _now: float) -> list[Member]:
    return [m for m in members if m.state is Membership.LEAVING]


class _KeptClock:
    """Reads the clock once for ten requests."""

    def __init__(self, clock: PointedClock) -> None:
        self._clock, self._left = clock, 0
        self._now, self._boot = clock.now(), clock.boot()

    def count(self) -> None:
        self._left -= 1
        if self._left < 0:
            self._left, self._now, self._boot = 10, self._clock.now(), self._clock.boot()

    def now(self) -> UnixTime:
        return self._now

    def boot(self) -> BootTime:
        return self._boot


_call = Introspection.__call__


def _kept_clock(self: Introspection, request: Any, peer: Any) -> Any:
    if not isinstance(self._clock, _KeptClock):
        self._clock = _KeptClock(self._clock)  # type: ignore[arg-type] # the simulation's
    self._clock.count()
    return _call(self, request, peer)


def _unearned(
    position: Position, _previous: Bound | None, boot_id: str, asked_at: BootTime, asked_wall: UnixTime
) -> Bound:
    return Bound(position.incarnation, position.seq, boot_id, BootTime(asked_at + MAX_SILENCE), asked_wall)


_append = FeedCopy.append


async def _append_anyhow(self: FeedCopy, after: Position, entries: Sequence[Sealed], *, bound: int) -> bool:
    place = (await self.look()).position()
    return await _append(self, place or after, entries, bound=bound)


def _as_if_live(bound: Bound, _recovery: Any) -> Bound:
    return bound


_decide = decisions.decide


_token = Introspection._token


def _token_as_of(
    self: Introspection, view: Any, caller: Any, presented: bytes, digest: bytes, freshness: Any, now: UnixTime
) -> Any:
    known = freshness.as_of if freshness.state is FreshnessState.LAST_KNOWN else now
    return _token(self, view, caller, presented, digest, freshness, min(known, now))


def _as_of(ask: Any, token: Any, records: Any, freshness: Any, now: UnixTime) -> Any:
    known = freshness.as_of if freshness.state is FreshnessState.LAST_KNOWN else now
    return _decide(ask, token, records, freshness, min(known, now))


def _no_cap(age: float, same_boot: bool, _cap: Seconds) -> Finding:
    return freshnesses_finding(age, same_boot, Seconds(1e9))


freshnesses_finding = freshnesses._finding
_view = Register.view


async def _kept_view(self: Register) -> View:
    at, view = getattr(self, "_kept", (-1.0, None))
    if view is None or trio.current_time() - at > 0.25:
        view = await _view(self)
        self._kept = (trio.current_time(), view)  # type: ignore[attr-defined] # the mistake's own
    else:
        await trio.lowlevel.checkpoint()
    return view


class _DryRun(Exception):
    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__()
        self.outcomes = outcomes


async def _acknowledge_first(self: SqlLedger, writes: list[Write]) -> list[Outcome]:
    def dry(connection: sa.Connection) -> None:
        raise _DryRun(self._transaction.append(connection, writes))

    try:
        self.database.transact(dry)
    except _DryRun as run:
        outcomes = run.outcomes
    await trio.lowlevel.checkpoint()
    trio.lowlevel.spawn_system_task(_write_later, self, writes, context=contextvars.copy_context())
    return outcomes


async def _write_later(self: SqlLedger, writes: list[Write]) -> None:
    async with self.__dict__.setdefault("_order", trio.Lock()):
        await trio.sleep(0.02)
        with suppress(Fault):
            await self.database.run(partial(self._transaction.append, writes=writes))


def _no_receipts(_self: SqliteBulk, _rows: Sequence[Any]) -> None: ...


def _any_nonce(self: Asking, answer: Any) -> bool:
    if answer.instance != self.instance or answer.incarnation != self.incarnation or not self._outstanding:
        return False
    nonce = max(self._outstanding, key=lambda n: self._outstanding[n].at)
    self.head = max(self.head, answer.seq)
    self._answers[nonce] = min(answer.seq, self._answers.get(nonce, answer.seq))
    return True


_ask = Follower.ask


def _claim_head(self: Follower) -> Question:
    question = _ask(self)
    return msgspec.structs.replace(question, applied=max(question.applied, self.head))


def _still(_self: Introspection, *_: Any) -> bool:
    return True


OWN = (
    Mistake(
        "hasty",
        "an answer counts before its entries are applied (`Asking.earned`)",
        replaced(Asking, "earned", _hasty),
    ),
    Mistake(
        "nonce",
        "an answer counts for the newest question, whichever it answers (`Asking.answer`)",
        replaced(Asking, "answer", _any_nonce),
    ),
    Mistake(
        "claim",
        "a node reports what it has heard of, not what it has applied (`Follower.ask`)",
        replaced(Follower, "ask", _claim_head),
    ),
    Mistake(
        "forgetful",
        "who is struck off is forgotten at once (`Presence.silent`, `.expired`)",
        together(replaced(Presence, "silent", _silent_soon), replaced(Presence, "expired", _expired_at_once)),
    ),
    Mistake(
        "short wait",
        "the barrier waits out one second (`barrier.WAIT_OUT`)",
        replaced(barriers, "WAIT_OUT", Seconds(1.0)),
    ),
    Mistake(
        "kept view",
        "the table and the position are kept for 250 ms (`Register.view`)",
        replaced(Register, "view", _kept_view),
    ),
    Mistake(
        "kept clock",
        "a worker reads its clock once for ten requests (`Introspection`)",
        replaced(Introspection, "__call__", _kept_clock),
    ),
    Mistake(
        "say again",
        "a yes is said again without a look at its records (`Introspection._holds`)",
        replaced(Introspection, "_holds", _still),
    ),
    Mistake(
        "unearned",
        "a snapshot is adopted with a bound it has not earned (`snapshot.bound_after`)",
        replaced(feeders, "bound_after", _unearned),
    ),
    Mistake(
        "as if live",
        "a ledger that recovers is answered from as if it were live (`freshness.under_recovery`)",
        replaced(reader, "under_recovery", _as_if_live),
    ),
    Mistake(
        "as of",
        "in an outage, periods are judged as of the last answer (`Introspection._token`, `decide`)",
        together(replaced(introspection, "decide", _as_of), replaced(Introspection, "_token", _token_as_of)),
    ),
    Mistake(
        "no cap",
        "last known has no end (`freshness._finding`)",
        replaced(freshnesses, "_finding", _no_cap),
    ),
    Mistake(
        "left out",
        "the projector appends what is next for it to whatever stands in Redis (`FeedCopy.append`)",
        replaced(FeedCopy, "append", _append_anyhow),
    ),
    Mistake(
        "ack first",
        "a write is acknowledged before its commit (`SqlLedger._commit`)",
        replaced(SqlLedger, "_commit", _acknowledge_first),
    ),
    Mistake(
        "no receipts",
        "idempotency keys are not kept (`SqliteBulk.insert_receipts`)",
        replaced(SqliteBulk, "insert_receipts", _no_receipts),
    ),
)
