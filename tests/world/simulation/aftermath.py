"""After the storm: everything mends itself, nothing is lost, and every write was done or not done (P3, P7)."""

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
import trio

from admin.ledger.chain import Walk
from admin.ledger.events import event_of
from admin.ledger.feed_copy import WHOLE, head_text
from admin.ledger.reader import read_events
from admin.ledger.store import StoredEvent
from admin.ledger.transaction import earlier_from
from engine.consent.records import ConsentRecord
from engine.consent.states import ENDED, State
from engine.decision.freshness import FreshnessState, freshness_of
from engine.feed.entries import EntryKind, unseal
from engine.feed.redis_names import HEAD, STREAM, record_key
from engine.replica.layout import STAMP_BYTES
from tests.support.replicas import MAC_KEY
from tests.world.simulation.redis import Stream
from tests.world.simulation.template import POLICY
from tests.world.simulation.writes import Outcome, Write

if TYPE_CHECKING:
    from tests.world.simulation.nodes import Machine
    from tests.world.simulation.world import World

PATIENCE = 20.0  # seconds in which everything must have mended itself
WAKES = 0.1

_consent = msgspec.msgpack.Decoder(ConsentRecord)


async def settle(world: "World") -> None:
    """Mend what people mend (wires, split servers, stopped processes), and wait for what mends itself."""
    while world.faulty:  # noqa: ASYNC110 - many things are waited for, and few of them ring
        await trio.sleep(WAKES)
    if len(world.redis.primaries) > 1:
        world.redis.heal()
    for wire in [w for m in world.machines for w in m.wires] + [
        w for a in world.admin_wires for w in (a.database, a.redis, a.projector, a.filler)
    ]:
        wire.heal()
        wire.slow = wire.loss = 0.0
    world.consumer_wire.heal()
    deadline = world.now() + PATIENCE
    while (missing := _unsettled(world)) and world.now() < deadline:  # noqa: ASYNC110 - as above
        await trio.sleep(WAKES)
    if missing:
        world.wrong("the world", "P3: it does not come back by itself", missing)
        return
    world.count("settled in milliseconds", round(1000 * (world.now() - deadline + PATIENCE)))


def _unsettled(world: "World") -> str:
    """What is not yet as it should be; empty = nothing."""
    if world.trying:
        return "a consumer, or an operator, still tries"
    if _unsettled_redis(world):
        return _unsettled_redis(world)
    return next((what for machine in world.machines if (what := _unsettled_node(world, machine))), "")


def _unsettled_redis(world: "World") -> str:
    (server,), head = world.redis.primaries, world.store.history.position
    if server.get(HEAD) != head_text(head):
        return f"Redis stands at {server.get(HEAD)!r}, the ledger at {head}"
    return "" if server.get(WHOLE) == head.incarnation.encode() else "records are being filled"


def _unsettled_node(world: "World", machine: "Machine") -> str:
    store, head = machine.store, world.store.history.position
    if store is None or store.bound is None or machine.feeder is None or not machine.feeder.alive:
        return f"{machine.name} has no feeder or no replica"
    bound = store.bound
    if (bound.incarnation, bound.applied) != (head.incarnation, head.seq):
        return f"{machine.name} stands at {bound.incarnation}:{bound.applied}, the ledger at {head}"
    state = freshness_of(
        bound, POLICY, boot_id=machine.boot_id, boot=machine.clock.boot(), now=machine.clock.now()
    ).state
    return "" if state is FreshnessState.CURRENT else f"{machine.name} is {state.value}"


def look(world: "World") -> None:
    """The last look at everything."""
    with world.store.engine.connect() as connection:
        events = read_events(connection, 0, 100_000)
        rows = connection.exec_driver_sql("SELECT * FROM idempotency").all()
    replays = {row.key: earlier_from(row).receipt for row in rows}
    broken = Walk().first_break(events)
    if broken is not None:
        world.wrong("the ledger", "P7: the chain is broken", str(broken))
    _look_at_writes(world, events, {key: receipt.position.seq for key, receipt in replays.items()})
    _look_at_redis(world, events)
    for machine in world.machines:
        _look_at_node(world, machine)


def _look_at_writes(world: "World", events: list[StoredEvent], replays: dict[str, int]) -> None:
    done = defaultdict(list)
    for event in events:
        if event.subject.startswith("consent:"):
            said = event_of(event)
            done[said.act.actor].append(event)  # type: ignore[union-attr] # an event of a consent has an act
            done[event.subject, event.tag].append(event)
    for write in world.writes:
        mine = done[write.key.key] if write.kind == "revoke" else done[f"consent:{write.consent_id}", "consent.granted"]
        what = _broken_write(write, mine, replays.get(write.key.key))
        world.count(f"write: {write.outcome.value}{' and lost by a restore' if write.lost else ''}")
        if write.unanswered:
            world.count(f"write: once unanswered, then {write.outcome.value}")
        if what:
            world.wrong(write.key.key, f"P7: {what}", f"{write.kind} of {write.consent_id[-4:]}, {write.refusal}")
    for write in world.writes:
        if len(done[f"consent:{write.consent_id}", "consent.revoked"]) > 1:
            world.wrong(write.key.key, "P7: a consent is revoked twice", write.consent_id)


def _broken_write(write: Write, mine: list[StoredEvent], replay: int | None) -> str:  # noqa: PLR0911 - a list of rules
    if len(mine) > 1:
        return "a write was done twice"
    if bool(mine) != (replay is not None) or (mine and mine[0].position.seq != replay):
        return "asking again says something else than the ledger"
    if write.lost:
        return ""
    if write.outcome is Outcome.DONE and not mine:
        return "an acknowledged write is gone"
    if write.outcome is Outcome.REFUSED and mine:
        return "a refused write was done"
    if mine and any(receipt.position != mine[0].position for receipt in write.receipts):
        return "a receipt names another place"
    return ""


def _look_at_redis(world: "World", events: list[StoredEvent]) -> None:
    (server,), head = world.redis.primaries, world.store.history.position
    stream = server.get(STREAM)
    assert isinstance(stream, Stream)
    seqs = [at[0] for at, _ in stream.items]
    if seqs and (seqs[-1] != head.seq or len(seqs) != len(set(seqs)) or not _unbroken(seqs, events)):
        world.wrong("redis", "P3: the stream is not an unbroken end of the ledger", f"{seqs[-5:]}, {head}")
    for seq, kind, key, record in world.store.made.connection.execute(
        "SELECT seq, kind, key, record FROM feed_records"
    ):
        sealed = server.get(record_key(EntryKind(kind), key))
        entry = unseal(sealed, (MAC_KEY,)) if isinstance(sealed, bytes) else None
        if entry is None or (entry.seq, entry.record) != (seq, record):
            world.wrong("redis", "P3: a record is not the ledger's", f"{EntryKind(kind).name} at {seq}")


def _unbroken(seqs: list[int], events: list[StoredEvent]) -> bool:
    return seqs == [event.position.seq for event in events[-len(seqs) :]]


def _look_at_node(world: "World", machine: "Machine") -> None:
    assert machine.store is not None
    environment = machine.store.environment
    assert environment is not None
    history = world.store.history
    with environment.lmdb.begin() as txn:
        for key in history.known():
            value = txn.get(key, db=environment.consents)
            state = None if value is None else _consent.decode(value[STAMP_BYTES:]).state
            kept = key in machine.files.heard and state in ENDED and history.state(key) is State.ACTIVE
            if state is not history.state(key) and not kept:
                world.wrong(machine.name, "P3: a replica differs from the ledger", f"{key.hex()[-4:]} is {state}")
