"""Nodes register the keys of their answers over real mTLS; the issuer publishes them; others may not."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
from joserfc.jwk import KeySet as OracleKeySet

from admin.authorization import published_keys
from admin.authorization.published_keys import KeySetText
from admin.ledger import answer_keys as module
from admin.ledger.answer_keys import KEYS_PER_NODE, AnotherNodesKey, AnswerKeys, TooManyAnswerKeys
from admin.ledger.nodes import KnownNodes
from admin.ledger.sql import SqlLedger
from admin.pki.keys import FileTokenSigner
from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, Role
from engine.errors import Fault
from engine.feed.https import FeedBroken, FeedClient, FeedForbidden, FeedUnavailable, WrongIncarnation
from engine.tokens.answer_key_statements import LIFE, BadStatement, make_statement
from engine.tokens.answer_keys import PemAnswerSigner, new_answer_key
from engine.tokens.keys import Jwk, KeySet
from tests.support.feed_services import RunningService, feed_service
from tests.support.pki import ISSUER, Pki
from tests.support.projection import participant_record_event, real_ledger

NODE = ClientId("node-1")


class Wall:
    """The service's clock, moved by hand."""

    def __init__(self) -> None:
        self.at = float(int(time.time()))

    def __call__(self) -> float:
        return self.at


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def ledger(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[SqlLedger]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    async with real_ledger(tmp_path, url) as opened:
        yield opened


@pytest.fixture
async def service(ledger: SqlLedger, pki: Pki) -> AsyncIterator[RunningService]:
    async with feed_service(ledger, pki) as running:
        yield running


@pytest.fixture
async def node(service: RunningService) -> AsyncIterator[FeedClient]:
    async with service.client("node-1") as client:
        yield client


def signer() -> PemAnswerSigner:
    return PemAnswerSigner.from_pem(new_answer_key())


def statement(of: PemAnswerSigner, node_id: str = NODE, at: float | None = None) -> bytes:
    return make_statement(of, node_id, ISSUER, UnixTime(int(time.time() if at is None else at)))


def keys_of(ledger: SqlLedger, wall: Wall, forbidden: frozenset[str] = frozenset()) -> AnswerKeys:
    return AnswerKeys(ledger.database, KnownNodes(ledger), ISSUER, forbidden, wall)


async def test_a_registered_key_is_published(ledger: SqlLedger, node: FeedClient) -> None:
    own = signer()
    kid, until = await node.register_answer_key(statement(own))
    assert kid == own.kid
    assert LIFE - 60 < until - time.time() <= LIFE
    assert await keys_of(ledger, Wall()).published() == (own.public,)


async def test_the_same_statement_may_come_again_and_a_later_one_prolongs(ledger: SqlLedger, node: FeedClient) -> None:
    own, now = signer(), time.time()
    early, late = statement(own, at=now - 100), statement(own, at=now)
    first = await node.register_answer_key(early)
    assert await node.register_answer_key(early) == first
    second = await node.register_answer_key(late)
    assert second[1] == first[1] + 100
    assert await node.register_answer_key(early) == second
    assert await keys_of(ledger, Wall()).published() == (own.public,)


async def test_nobody_registers_for_another_node(ledger: SqlLedger, service: RunningService) -> None:
    own = signer()
    async with service.client("node-2") as other:
        with pytest.raises(FeedBroken, match="feed service did not understand us") as refused:
            await other.register_answer_key(statement(own))
        assert "another node" in refused.value.detail
        await other.register_answer_key(statement(own, "node-2"))
    async with service.client("node-1") as copied:
        with pytest.raises(WrongIncarnation) as conflict:  # the client's name for any 409
            await copied.register_answer_key(statement(own))
        assert "registered for another node" in conflict.value.detail
    assert await keys_of(ledger, Wall()).published() == (own.public,)


@pytest.mark.parametrize("caller", ["node-3", "edp-1", "edp-9"])
async def test_only_nodes_register(ledger: SqlLedger, service: RunningService, caller: str) -> None:
    async with service.client(caller) as client:
        with pytest.raises(FeedForbidden):
            await client.register_answer_key(statement(signer(), caller))
    assert await keys_of(ledger, Wall()).published() == ()


async def test_garbage_is_refused(node: FeedClient) -> None:
    for raw in (b"", b"a.b.c", b"x" * 5_000, statement(signer(), at=0)):
        with pytest.raises(FeedBroken):
            await node.register_answer_key(raw)


async def test_a_node_has_a_bounded_number_of_keys(ledger: SqlLedger, service: RunningService) -> None:
    async with service.client("node-1") as node:
        own = [signer() for _ in range(KEYS_PER_NODE)]
        for one in own:
            await node.register_answer_key(statement(one))
        with pytest.raises(FeedUnavailable) as refused:
            await node.register_answer_key(statement(signer()))
        assert "429" in refused.value.detail
        await node.register_answer_key(statement(own[0]))  # one of them again is fine
    async with service.client("node-2") as other:
        await other.register_answer_key(statement(signer(), "node-2"))
    assert len(await keys_of(ledger, Wall()).published()) == KEYS_PER_NODE + 1


async def test_neither_can_short_lives_fill_the_table(
    ledger: SqlLedger, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.ledger is ledger
    wall = Wall()
    keys = keys_of(ledger, wall)
    monkeypatch.setattr("engine.tokens.answer_key_statements.LIFE", 60)
    for _ in range(KEYS_PER_NODE):
        await keys.register(NODE, statement(signer(), at=wall.at))
        wall.at += 61
    with pytest.raises(TooManyAnswerKeys):
        await keys.register(NODE, statement(signer(), at=wall.at))
    wall.at += module.DAY
    await keys.register(NODE, statement(signer(), at=wall.at))


async def test_a_key_leaves_the_set_when_its_time_is_over(ledger: SqlLedger, service: RunningService) -> None:
    assert service.ledger is ledger
    wall, own = Wall(), signer()
    keys = keys_of(ledger, wall)
    until = (await keys.register(NODE, statement(own, at=wall.at))).published_until
    wall.at = until - 1
    assert await keys.published() == (own.public,)
    wall.at = until
    assert await keys.published() == ()


async def test_a_suspended_nodes_keys_leave_the_set(ledger: SqlLedger, service: RunningService) -> None:
    own, wall = signer(), Wall()
    keys = keys_of(ledger, wall)
    await keys.register(NODE, statement(own, at=wall.at))
    assert await keys.published() == (own.public,)
    state = await ledger.subject("participant:node-1")
    assert state is not None
    suspended = service.pki.participant("node-1", Role.NODE, suspended=True)
    await ledger.append([participant_record_event(suspended, version=state.version)])
    assert await keys_of(ledger, wall).published() == ()


async def test_a_token_key_cannot_become_an_answer_key(ledger: SqlLedger, service: RunningService) -> None:
    assert service.ledger is ledger
    own, wall = signer(), Wall()
    with pytest.raises(AnotherNodesKey, match="signs tokens"):
        await keys_of(ledger, wall, frozenset({own.kid})).register(NODE, statement(own, at=wall.at))


async def test_a_statement_for_another_issuer_is_refused(ledger: SqlLedger, service: RunningService) -> None:
    assert service.ledger is ledger
    wall = Wall()
    foreign = make_statement(signer(), NODE, "https://elsewhere", UnixTime(int(wall.at)))
    with pytest.raises(BadStatement, match="another issuer"):
        await keys_of(ledger, wall).register(NODE, foreign)


class TestKeySetText:
    """What `jwks_uri` shows."""

    async def test_token_keys_come_first_and_others_read_them_all(self, token_signer: FileTokenSigner) -> None:
        own = signer()

        async def answers() -> tuple[Jwk, ...]:
            return (own.public,)

        raw = await KeySetText([token_signer.public], answers).read()
        published = json.loads(raw)["keys"]
        assert [jwk["kid"] for jwk in published] == [token_signer.public.kid, own.kid]
        assert all(jwk["use"] == "sig" for jwk in published)
        assert len(OracleKeySet.import_key_set({"keys": published}).keys) == 2

    async def test_nodes_verify_tokens_by_token_keys_only(self, node: FeedClient) -> None:
        """What `/feed/keys` says does not change when a node registers its key."""
        before = await node.keys()
        await node.register_answer_key(statement(signer()))
        assert await node.keys() == before

    async def test_the_last_set_is_shown_while_the_ledger_is_away(
        self, token_signer: FileTokenSigner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(published_keys, "KEEP", Seconds(0.0))
        own, away = signer(), False

        async def answers() -> tuple[Jwk, ...]:
            if away:
                raise Fault("no database")
            return (own.public,)

        text = KeySetText([token_signer.public], answers)
        with_answers = await text.read()
        away = True
        assert await text.read() == with_answers
        assert len(json.loads(with_answers)["keys"]) == 2
        without = await KeySetText([token_signer.public], answers).read()
        assert KeySet.from_jwks(without, ISSUER).kids == {token_signer.public.kid}

    async def test_many_who_ask_are_one_reading(self, token_signer: FileTokenSigner) -> None:
        readings = 0

        async def answers() -> tuple[Jwk, ...]:
            nonlocal readings
            readings += 1
            await trio.lowlevel.checkpoint()
            return ()

        text = KeySetText([token_signer.public], answers)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(text.read)
        assert readings == 1


def test_what_is_stored_is_what_is_published() -> None:
    own = signer()
    assert msgspec.json.decode(msgspec.json.encode(own.public), type=Jwk) == own.public
