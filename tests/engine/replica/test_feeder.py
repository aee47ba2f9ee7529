"""The feeder on a real Redis, with a made-up ledger behind it: start, tail, gaps, forgeries, losses, incarnations."""

import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from engine.clock import BootTime, UnixTime
from engine.consent.states import State
from engine.decision.freshness import FreshnessState, freshness_of
from engine.feed.entries import seal
from engine.feed.gap_reports import GapReport
from engine.feed.questions import Answer, seal_answer
from engine.feed.redis_commands import delete
from engine.feed.redis_names import STREAM, STREAM_FIELD, answers_key, stream_id
from engine.replica.feeder import Feeder, FeederState, Way
from engine.replica.follower import Follower
from engine.replica.layout import BrokenReplica
from engine.replica.over_https import REDIS_PATIENCE
from engine.replica.over_redis import RedisLinks, RedisWay
from engine.replica.reader import view_of
from engine.replica.store import ReplicaStore
from engine.telemetry.host import SystemClock
from tests.support.feeds import MadeLedger, MadeProjector
from tests.support.replicas import (
    BOOT,
    INCARNATION,
    MAC_KEY,
    OTHER_INCARNATION,
    consent,
    consent_entry,
    consent_key,
    open_store,
    revocation_entry,
)
from tests.support.valkey import Valkey, client_of

PATIENCE = 30.0  # far above what anything here takes; only a failure waits so long
CLOCK = SystemClock()


class Node:
    """One feeder with its replica, seen as a worker would see it."""

    def __init__(self, directory: Path, ledger: MadeLedger, valkey: Valkey | None) -> None:
        counter = itertools.count(1)
        self.store: ReplicaStore = open_store(directory)
        links = None
        if valkey is not None:
            links = RedisLinks(client_of(valkey.url, name="tail"), client_of(valkey.url, name="asks"))
        self.feeder = Feeder(
            self.store,
            ledger,
            links,
            node_id="node-1",
            instance=f"{id(self):016x}",
            boot_id=BOOT,
            mac_keys=(MAC_KEY,),
            clock=CLOCK,
            draw=lambda: f"{next(counter):032x}",
            jitter=lambda: 0.5,
        )

    def state(self) -> FreshnessState:
        with view_of(self.store.environment) as view:  # type: ignore[arg-type] - tests wait for a replica first
            return freshness_of(view.bound, view.policy(), boot_id=BOOT, boot=CLOCK.boot(), now=CLOCK.now()).state

    def as_of(self) -> UnixTime:
        with view_of(self.store.environment) as view:  # type: ignore[arg-type] - as above
            assert view.bound is not None
            return view.bound.as_of

    def consent_state(self, number: int) -> State | None:
        with view_of(self.store.environment) as view:  # type: ignore[arg-type] - as above
            record = view.consent(consent_key(number))
            return None if record is None else record.state

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what another task brings about; fails after PATIENCE."""
        with trio.fail_after(PATIENCE):
            while not condition():  # noqa: ASYNC110 - conditions span two machines' worth of state
                await trio.sleep(0.005)

    async def until_taken_over(self, seq: int) -> None:
        """A snapshot was taken that stands for this position, and what came before is told."""
        await self.until(lambda: self.store.bound is not None and self.store.bound.applied == seq)

    async def until_current_at(self, seq: int) -> None:
        await self.until(
            lambda: (
                self.store.bound is not None
                and self.store.bound.applied == seq
                and self.state() is FreshnessState.CURRENT
            )
        )


def told_to(ledger: MadeLedger) -> list[GapReport]:
    return [item for body in ledger.reports.values() for item in msgspec.json.decode(body, type=list[GapReport])]


def id_of(number: int) -> str:
    return str(uuid.UUID(bytes=consent_key(number)))


class Moved:
    """Clocks that stand until they are moved."""

    at = 50.0

    def now(self) -> UnixTime:
        return UnixTime(int(self.at))

    def boot(self) -> BootTime:
        return BootTime(self.at)


@pytest.fixture
def ledger() -> MadeLedger:
    made = MadeLedger()
    for number in range(1, 4):
        made.grant(number)
    return made


@asynccontextmanager
async def running(directory: Path, ledger: MadeLedger, valkey: Valkey | None) -> AsyncIterator[Node]:
    node = Node(directory, ledger, valkey)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.feeder.run)
            yield node
            nursery.cancel_scope.cancel()
    finally:
        node.store.close()


@pytest.fixture
async def projector(ledger: MadeLedger, valkey: Valkey, nursery: trio.Nursery) -> MadeProjector:
    client = client_of(valkey.url)
    await nursery.start(client.run)
    await client.wait_up()
    made = MadeProjector(ledger, client)
    nursery.start_soon(made.run)
    return made


async def until_redis_answers(node: Node) -> None:
    await node.until(lambda: node.feeder.statistics().way is Way.REDIS)


async def test_an_empty_node_takes_a_snapshot_and_becomes_current(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        assert node.consent_state(2) is State.ACTIVE
        await node.until(lambda: node.store.keys() == ledger.verification_keys)
        await until_redis_answers(node)
        assert projector.asked
        told = node.feeder.statistics()
        assert (told.state, told.snapshots, told.head) == (FeederState.FOLLOWING, 1, 3)


async def test_entries_come_through_redis_and_are_acknowledged(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        await until_redis_answers(node)
        ledger.fetched.clear()
        ledger.grant(2, consent(State.REVOKED, version=2))
        await node.until(lambda: node.consent_state(2) is State.REVOKED)
        await node.until(lambda: any(question.applied == 4 for question in projector.asked))
        await node.until_current_at(4)


async def test_a_restart_goes_on_from_the_replica_without_a_snapshot(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
    ledger.calls.clear()
    ledger.grant(9)
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(4)
        await until_redis_answers(node)
    assert projector.asked
    assert "snapshot" not in ledger.calls


async def test_a_restart_with_a_redis_that_answers_asks_nothing_over_https(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        await node.until(lambda: node.store.keys() is not None)
    calls = ledger.calls
    calls.clear()
    projector.asked.clear()
    async with running(tmp_path, ledger, valkey) as node:
        await until_redis_answers(node)
        assert not {"entries", "check", "snapshot"} & set(calls)
        assert projector.asked
        await node.until(lambda: "keys" in calls)


async def test_a_redis_that_never_answers_is_waited_for_a_bounded_time(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey
) -> None:
    async with running(tmp_path, ledger, valkey) as node:  # nobody answers questions there
        await node.until_current_at(3)
        await node.until(lambda: node.feeder.statistics().way is Way.HTTPS)
        assert "check" in ledger.calls


async def test_the_silence_of_a_way_counts_from_its_start(
    tmp_path: Path, valkey: Valkey, nursery: trio.Nursery
) -> None:
    store = open_store(tmp_path)
    clock = Moved()
    follower = Follower(store, node_id="n", instance="0" * 16, boot_id=BOOT, clock=clock, draw=lambda: "0" * 32)
    way = RedisWay(RedisLinks(client_of(valkey.url), client_of(valkey.url)), follower, mac_keys=(MAC_KEY,), clock=clock)
    clock.at = 100.0
    assert way.silence() == 0.0
    nursery.start_soon(way.run)
    await trio.testing.wait_all_tasks_blocked()
    clock.at = 100.75
    assert way.silence() == 0.75 > REDIS_PATIENCE
    nursery.cancel_scope.cancel()
    store.close()


async def test_without_redis_a_node_lives_on_https(tmp_path: Path, ledger: MadeLedger) -> None:
    async with running(tmp_path, ledger, None) as node:
        await node.until_current_at(3)
        ledger.grant(1, consent(State.REVOKED, version=2))
        await node.until_current_at(4)
        await node.until(lambda: any(question.applied == 4 for question in ledger.questions))
        assert node.consent_state(1) is State.REVOKED
        assert node.feeder.statistics().way is Way.HTTPS


async def test_a_broken_replica_ends_the_feeder_whichever_way_the_entry_came(
    tmp_path: Path, ledger: MadeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the next start throws the file away; whoever tried on and on would never be current again."""

    def broken(*_: object) -> None:
        raise BrokenReplica("the replica has lost entries")

    with trio.fail_after(PATIENCE), pytest.RaisesGroup(BrokenReplica, flatten_subgroups=True):
        async with running(tmp_path, ledger, None) as node:
            await node.until_current_at(3)
            monkeypatch.setattr(node.store, "apply", broken)
            await trio.sleep_forever()


async def test_redis_killed_then_https_then_redis_again(
    tmp_path: Path, ledger: MadeLedger, doomed_valkey: Valkey, nursery: trio.Nursery
) -> None:
    client = client_of(doomed_valkey.url)
    await nursery.start(client.run)
    made = MadeProjector(ledger, client)
    nursery.start_soon(made.run)
    async with running(tmp_path, ledger, doomed_valkey) as node:
        await node.until_current_at(3)
        await until_redis_answers(node)
        doomed_valkey.kill()
        ledger.grant(1, consent(State.REVOKED, version=2))
        await node.until(lambda: node.feeder.statistics().way is Way.HTTPS)
        await node.until_current_at(4)
        await trio.to_thread.run_sync(doomed_valkey.restart)
        await until_redis_answers(node)
        ledger.grant(2, consent(State.REVOKED, version=2))
        await node.until_current_at(5)


async def test_a_stopped_redis_costs_no_currency(
    tmp_path: Path, ledger: MadeLedger, doomed_valkey: Valkey, nursery: trio.Nursery
) -> None:
    client = client_of(doomed_valkey.url)
    await nursery.start(client.run)
    nursery.start_soon(MadeProjector(ledger, client).run)
    async with running(tmp_path, ledger, doomed_valkey) as node:
        await node.until_current_at(3)
        await until_redis_answers(node)
        doomed_valkey.pause()
        ledger.grant(1, consent(State.REVOKED, version=2))
        await node.until_current_at(4)
        await node.until(lambda: node.feeder.statistics().way is Way.HTTPS)
        await node.until_current_at(4)
        doomed_valkey.resume()
        await until_redis_answers(node)


async def test_a_withheld_entry_is_fetched_when_the_next_one_shows_the_gap(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    projector.withheld, ledger.polls = {4}, False
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        await until_redis_answers(node)
        ledger.grant(1, consent(State.REVOKED, version=2))
        ledger.grant(7)
        await node.until_current_at(5)
        assert node.consent_state(1) is State.REVOKED


async def test_a_withheld_newest_entry_is_fetched_because_an_answer_speaks_of_it(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    projector.withheld, ledger.polls = {4}, False
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        await until_redis_answers(node)
        ledger.grant(1, consent(State.REVOKED, version=2))
        await node.until_current_at(4)
        assert node.feeder.statistics().healed >= 1


async def test_a_forged_entry_is_passed_over_and_noticed(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        await until_redis_answers(node)
        forged = seal(consent_entry(4, 1, consent(State.REVOKED)), b"x" * 32)
        valkey.call("XADD", STREAM, stream_id(4), STREAM_FIELD, forged)
        projector.written = 4  # the genuine entry 4 finds its place taken
        await node.until(lambda: node.feeder.statistics().forged >= 1)
        assert node.consent_state(1) is State.ACTIVE
        ledger.grant(2, consent(State.REVOKED, version=2))
        await node.until_current_at(4)
        assert (node.consent_state(1), node.consent_state(2)) == (State.ACTIVE, State.REVOKED)


async def test_a_forged_answer_makes_nothing_current(tmp_path: Path, ledger: MadeLedger, valkey: Valkey) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        ledger.away = True  # from here on only Redis could answer, and nobody answers there
        await node.until(lambda: node.state() is FreshnessState.LAST_KNOWN)
        nonce = f"{1:032x}"
        for key in (b"x" * 32, MAC_KEY):  # one forged, one genuine but for another instance
            answer = Answer(node.feeder.follower.instance if key != MAC_KEY else "f" * 16, nonce, ledger.incarnation, 3)
            name = answers_key(node.feeder.follower.instance)
            valkey.call("XADD", name, "*", b"a", seal_answer(answer, key))
        await node.until(lambda: node.feeder.statistics().forged >= 1)
        assert node.state() is FreshnessState.LAST_KNOWN


async def test_a_flushed_redis_that_begins_anew_is_followed_again(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        await until_redis_answers(node)
        valkey.call("FLUSHALL")
        projector.written = 0
        ledger.grant(1, consent(State.REVOKED, version=2))
        await node.until_current_at(4)
        await until_redis_answers(node)
        ledger.grant(2, consent(State.REVOKED, version=2))
        await node.until_current_at(5)


async def test_another_incarnation_brings_a_new_snapshot_and_keeps_ends(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        await until_redis_answers(node)
        ledger.grant(1, consent(State.REVOKED, version=2))
        ledger.append(revocation_entry(5, b"r" * 16, CLOCK.now() + 600))
        ledger.grant(8)
        await node.until_current_at(6)
        ledger.restore(OTHER_INCARNATION, losing=3, gap_from=UnixTime(CLOCK.now() - 60))
        await delete(projector.redis, STREAM)
        projector.written = 0
        await node.until_taken_over(ledger.position.seq)
        assert node.store.bound is not None
        assert node.store.bound.incarnation == OTHER_INCARNATION
        assert (node.consent_state(1), node.consent_state(2)) == (State.REVOKED, State.ACTIVE)
        assert node.consent_state(8) is None  # granted in the part that was lost: unknown again
        (report,) = told_to(ledger)
        assert (report.node_id, report.known_under, report.known_to) == ("node-1", INCARNATION, 6)
        assert (report.missing_under, report.part, report.parts, report.policy) == (OTHER_INCARNATION, 1, 1, False)
        assert [(touched.consent_id, touched.state, touched.seq) for touched in report.consents] == [
            (id_of(1), "revoked", 4),
            (id_of(8), "active", 6),
        ]
        assert [touched.key for touched in report.tokens] == [(b"r" * 16).hex()]
        ledger.grant(1, consent(State.ACTIVE, version=3))  # the new incarnation's own, later word
        await node.until(lambda: node.consent_state(1) is State.ACTIVE)


async def test_while_the_ledger_recovers_a_node_is_last_known_as_of_the_gap_and_current_only_after_it_went_live(
    tmp_path: Path, ledger: MadeLedger
) -> None:
    gap_from = UnixTime(CLOCK.now() - 60)
    async with running(tmp_path, ledger, None) as node:
        await node.until_current_at(3)
        ledger.restore(OTHER_INCARNATION, losing=1, gap_from=gap_from)
        await node.until_taken_over(ledger.position.seq)
        await node.until(lambda: node.feeder.follower.silence() < 1.0)  # answered, and still
        assert (node.state(), node.as_of()) == (FreshnessState.LAST_KNOWN, gap_from)
        ledger.doubt(1)
        await node.until(lambda: node.consent_state(1) is State.REQUESTED)
        assert node.consent_state(2) is State.ACTIVE
        ledger.grant(1, consent(version=2))  # the ledger's later word
        await node.until(lambda: node.consent_state(1) is State.ACTIVE)
        ledger.doubt(2)
        await node.until(lambda: node.consent_state(2) is State.REQUESTED)
        assert node.state() is FreshnessState.LAST_KNOWN
        ledger.go_live()
        await node.until_current_at(ledger.position.seq)
        assert node.consent_state(2) is State.ACTIVE  # what was in doubt is not any more


async def test_a_node_without_a_replica_tells_a_recovering_ledger_that_it_knows_nothing(
    tmp_path: Path, ledger: MadeLedger
) -> None:
    ledger.restore(OTHER_INCARNATION, losing=1, gap_from=CLOCK.now())
    async with running(tmp_path, ledger, None) as node:
        await node.until_taken_over(ledger.position.seq)
        (report,) = told_to(ledger)
        assert (report.known_under, report.known_to, report.consents) == ("", 0, ())


async def test_a_feeder_that_ended_before_its_report_was_taken_tells_it_again(
    tmp_path: Path, ledger: MadeLedger
) -> None:
    async with running(tmp_path, ledger, None) as node:
        await node.until_current_at(3)
        ledger.grant(1, consent(State.REVOKED, version=2))
        await node.until_current_at(4)
        ledger.reports_taken = False
        ledger.restore(OTHER_INCARNATION, losing=1, gap_from=CLOCK.now())
        await node.until(lambda: ledger.calls.count("report") >= 2)
        assert node.state() is FreshnessState.BLIND  # the new replica is not in use before the old one has spoken
    ledger.reports_taken = True
    async with running(tmp_path, ledger, None) as node:
        await node.until_taken_over(ledger.position.seq)
        (report,) = told_to(ledger)
        assert [touched.consent_id for touched in report.consents] == [id_of(1)]
        assert node.consent_state(1) is State.REVOKED


async def test_a_report_that_is_refused_for_good_keeps_no_node_from_its_work(
    tmp_path: Path, ledger: MadeLedger
) -> None:
    async with running(tmp_path, ledger, None) as node:
        await node.until_current_at(3)
        ledger.grant(1, consent(State.REVOKED, version=2))
        await node.until_current_at(4)
        ledger.reports_understood = False
        ledger.restore(OTHER_INCARNATION, losing=1, gap_from=CLOCK.now())
        await node.until_taken_over(ledger.position.seq)
        assert node.consent_state(1) is State.REVOKED


async def test_a_replica_of_an_incarnation_that_is_over_knows_nothing_while_the_snapshot_is_under_way(
    tmp_path: Path, ledger: MadeLedger
) -> None:
    async with running(tmp_path, ledger, None) as node:
        await node.until_current_at(3)
        ledger.snapshots_allowed = trio.Event()
        ledger.restore(OTHER_INCARNATION, losing=1)
        await node.until(lambda: node.state() is FreshnessState.BLIND)
        ledger.snapshots_allowed.set()
        await node.until_current_at(ledger.position.seq)
        assert node.store.bound is not None
        assert node.store.bound.incarnation == OTHER_INCARNATION


async def test_a_rumour_of_another_incarnation_is_settled_by_the_feed_service(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        await until_redis_answers(node)
        stale = seal(consent_entry(90, 1, incarnation=OTHER_INCARNATION), MAC_KEY)
        valkey.call("XADD", STREAM, stream_id(90), STREAM_FIELD, stale)
        await node.until(lambda: node.feeder.follower.in_doubt)
        await node.until(lambda: not node.feeder.follower.in_doubt)
        assert node.feeder.statistics().snapshots == 1
        valkey.call("DEL", STREAM)
        projector.written = 0
        await node.until_current_at(3)


async def test_while_nobody_answers_the_node_is_last_known_and_then_recovers(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        projector.answering = False
        ledger.away = True
        await node.until(lambda: node.state() is FreshnessState.LAST_KNOWN)
        assert node.consent_state(1) is State.ACTIVE
        projector.answering = True
        await node.until_current_at(3)


async def test_a_failing_snapshot_is_tried_again_and_leaves_no_trace(tmp_path: Path, ledger: MadeLedger) -> None:
    ledger.away = True
    async with running(tmp_path, ledger, None) as node:
        await node.until(lambda: ledger.calls.count("snapshot") >= 2)
        assert node.feeder.statistics().state is FeederState.LOADING
        assert node.feeder.statistics().last_fault == "the feed service is away"
        ledger.away = False
        await node.until_current_at(3)
    assert len(list(tmp_path.glob("generation-*"))) == 1  # noqa: ASYNC240 - a moment's work


async def test_new_verification_keys_are_fetched_when_they_are_announced(
    tmp_path: Path, ledger: MadeLedger, valkey: Valkey, projector: MadeProjector
) -> None:
    async with running(tmp_path, ledger, valkey) as node:
        await node.until_current_at(3)
        ledger.announce_keys(b'{"issuer":"made-up","jwks":{"keys":[{"kid":"2"}]}}')
        await node.until(lambda: node.store.keys() == ledger.verification_keys)
        await node.until(lambda: projector.written == 4)


async def test_a_node_far_behind_takes_a_snapshot(
    tmp_path: Path, ledger: MadeLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.replica.over_https.FAR_BEHIND", 50)
    async with running(tmp_path, ledger, None) as node:
        await node.until_current_at(3)
    for number in range(200):
        ledger.grant(number)
    ledger.polls = False
    async with running(tmp_path, ledger, None) as node:
        await node.until_current_at(203)
        assert node.feeder.statistics().snapshots == 1
