"""Ledger, projector, Redis, feed service and feeder, all real: what is written comes to be known, whatever is lost."""

import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from admin.ledger.barrier import Barrier, How, Standing
from admin.ledger.nodes import KnownNodes
from admin.ledger.questions import Questions
from admin.ledger.sql import SqlLedger
from admin.ledger.store import Receipt
from engine.clock import Seconds
from engine.consent.records import ConsentId, consent_key
from engine.consent.states import State
from engine.decision.freshness import FreshnessState, freshness_of
from engine.feed.redis_client import Subscription
from engine.feed.redis_link import Credentials
from engine.feed.redis_names import ASKED
from engine.feed.topology import topology_of
from engine.replica.feeder import Feeder, Way
from engine.replica.over_redis import RedisLinks
from engine.replica.reader import view_of
from engine.replica.store import ReplicaStore
from engine.telemetry.host import SystemClock
from tests.support.feed_services import RunningService, feed_service
from tests.support.pki import Pki
from tests.support.projection import (
    MAC_KEY,
    SEALER,
    append_all,
    consent_event,
    consent_record,
    new_consents,
    projector_of,
    real_ledger,
)
from tests.support.replicas import BOOT, open_store
from tests.support.valkey import QUICK, Valkey, client_of

PATIENCE = 20.0  # against hanging only
CLOCK = SystemClock()


class World:
    """One ledger with all that hangs on it, and one feeder."""

    def __init__(self, service: RunningService, store: ReplicaStore, feeder: Feeder) -> None:
        self.ledger = service.ledger
        self.barrier = Barrier(service.register)
        self.store = store
        self.feeder = feeder

    def consent_state(self, consent_id: str) -> State | None:
        assert self.store.environment is not None
        with view_of(self.store.environment) as view:
            record = view.consent(consent_key(ConsentId(consent_id)))
            return None if record is None else record.state

    def current(self) -> bool:
        if self.store.environment is None:
            return False
        with view_of(self.store.environment) as view:
            fresh = freshness_of(view.bound, view.policy(), boot_id=BOOT, boot=CLOCK.boot(), now=CLOCK.now())
        return fresh.state is FreshnessState.CURRENT

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():  # noqa: ASYNC110 - other processes bring it about
                await trio.sleep(0.005)

    async def until_even(self) -> None:
        """Current, with everything the ledger has."""
        head = (await self.ledger.head()).position
        await self.until(lambda: self.feeder.follower.position == head and self.current())

    async def until_way(self, way: Way) -> None:
        await self.until(lambda: self.feeder.statistics().way is way)

    async def grant(self) -> str:
        consent_id = str(uuid.uuid4())
        await self.ledger.append([consent_event(consent_id, consent_record())])
        return consent_id

    async def revoke(self, consent_id: str) -> Receipt:
        revoked = consent_record(state=State.REVOKED, consent_version=2)
        return await self.ledger.append([consent_event(consent_id, revoked, 1)])


@asynccontextmanager
async def world(directory: Path, pki: Pki, valkey: Valkey) -> AsyncIterator[World]:
    async with real_ledger(directory) as ledger, feed_service(ledger, pki) as service, trio.open_nursery() as nursery:
        await start_projection(nursery, ledger, service, valkey)
        store = open_store(directory / "replica")
        async with service.client("node-1") as client:
            feeder = Feeder(
                store,
                client,
                RedisLinks(client_of(valkey.url, name="tail"), client_of(valkey.url, name="asks")),
                node_id="node-1",
                instance=secrets.token_hex(8),
                boot_id=BOOT,
                mac_keys=(MAC_KEY,),
                clock=CLOCK,
                draw=lambda: secrets.token_hex(16),
                jitter=lambda: 0.5,
            )
            await nursery.start(feeder.run)
            yield World(service, store, feeder)
            nursery.cancel_scope.cancel()
        store.close()


async def start_projection(nursery: trio.Nursery, ledger: SqlLedger, service: RunningService, valkey: Valkey) -> None:
    """A projector with its own link, and the answering of questions."""
    projecting, answering = client_of(valkey.url, name="projector"), client_of(valkey.url, name="questions")
    asked = Subscription(
        topology_of(valkey.url, credentials=Credentials()),
        [ASKED],
        credentials=Credentials(),
        tls=None,
        name="asked",
        jitter=lambda: 0.5,
        backoff=QUICK,
    )
    for client in (projecting, answering, asked):
        await nursery.start(client.run)
    projector = projector_of(ledger, projecting)
    await nursery.start(projector.run)
    questions = Questions(service.register, KnownNodes(ledger), projector, answering, asked, SEALER, jitter=lambda: 0.5)
    await nursery.start(questions.run)


async def test_a_node_starts_follows_and_acknowledges_a_revocation(tmp_path: Path, pki: Pki, valkey: Valkey) -> None:
    async with world(tmp_path, pki, valkey) as running:
        await append_all(running.ledger, new_consents(50))
        consent_id = await running.grant()
        await running.until_even()
        await running.until_way(Way.REDIS)
        effect = await running.barrier.wait_effective(await running.revoke(consent_id), Seconds(10.0))
        assert (effect.state, effect.how) == (Standing.EFFECTIVE, How.ACKNOWLEDGED)
        assert running.consent_state(consent_id) is State.REVOKED
        assert running.store.keys() is not None


async def test_losing_redis_costs_neither_currency_nor_a_revocation(
    tmp_path: Path, pki: Pki, doomed_valkey: Valkey
) -> None:
    async with world(tmp_path, pki, doomed_valkey) as running:
        consent_id, other = await running.grant(), await running.grant()
        await running.until_even()
        await running.until_way(Way.REDIS)
        doomed_valkey.kill()
        effect = await running.barrier.wait_effective(await running.revoke(consent_id), Seconds(10.0))
        assert effect.state is Standing.EFFECTIVE
        assert running.consent_state(consent_id) is State.REVOKED or not running.current()
        await running.until_even()
        await running.until_way(Way.HTTPS)
        await trio.to_thread.run_sync(doomed_valkey.restart)
        await running.until_way(Way.REDIS)
        await running.revoke(other)
        await running.until_even()
        assert running.consent_state(other) is State.REVOKED


@pytest.mark.parametrize("command", ["FLUSHALL", "DEL {ccs}:feed", "DEL {ccs}:head"])
async def test_a_wiped_redis_is_rebuilt_and_followed(tmp_path: Path, pki: Pki, valkey: Valkey, command: str) -> None:
    async with world(tmp_path, pki, valkey) as running:
        consent_id = await running.grant()
        await running.until_even()
        await running.until_way(Way.REDIS)
        valkey.call(*command.split())
        await running.revoke(consent_id)
        await running.until_even()
        await running.until_way(Way.REDIS)
        assert running.consent_state(consent_id) is State.REVOKED
        assert running.feeder.statistics().snapshots == 1
