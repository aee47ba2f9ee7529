"""Event keys: each of one pusher, of one kind, published for as long as it was stated."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from admin.ledger import event_keys as module
from admin.ledger.answer_keys import AnotherNodesKey, AnswerKeys
from admin.ledger.event_keys import DAY, KEPT_FOR, KEYS_PER_PUSHER, EventKeys, KeyOfAnotherKind, TooManyEventKeys
from admin.ledger.nodes import KnownNodes
from admin.ledger.outbox_pruning import POLL_DAYS
from engine.clock import UnixTime
from engine.consent.records import ClientId, Role
from engine.events.signing import PemEventSigner, new_event_key
from engine.pusher.event_keys import AGAIN_AFTER
from engine.pusher.schedule import PUSHED_FOR
from engine.tokens.answer_key_statements import BadStatement, make_statement
from engine.tokens.answer_keys import PemAnswerSigner
from tests.support.outboxes import ISSUER, PUSHER, House, house_in

NODE = ClientId("node-1")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def house(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house_in(tmp_path, url) as house:
        await house.register(PUSHER, Role.PUSHER)
        await house.register("pusher-2", Role.PUSHER)
        await house.register(NODE, Role.NODE)
        yield house


def new_signer() -> PemEventSigner:
    return PemEventSigner.from_pem(new_event_key())


def statement(house: House, signer: PemEventSigner, pusher: str = PUSHER, back: int = 0) -> bytes:
    return signer.sign_key_statement(pusher, ISSUER, UnixTime(house.clock.now() - back))


async def test_a_later_statement_prolongs_and_an_earlier_one_takes_nothing_away(house: House) -> None:
    signer = new_signer()
    early, late = statement(house, signer, back=100), statement(house, signer)
    first = await house.keys.register(PUSHER, early)
    assert first.published_until == house.clock.now() - 100 + KEPT_FOR
    second = await house.keys.register(PUSHER, late)
    assert second.published_until == house.clock.now() + KEPT_FOR
    assert await house.keys.register(PUSHER, early) == second
    newer = new_signer()
    house.clock.time += 10
    await house.keys.register(PUSHER, statement(house, newer))
    assert await house.keys.published() == (newer.public, signer.public)


def test_a_key_is_published_for_longer_than_anything_that_it_signed_is_pushed_or_offered_by_poll() -> None:
    """Signed at the commit at the earliest, by a key that is stated again each half day."""
    assert max(PUSHED_FOR, POLL_DAYS * DAY) < KEPT_FOR - AGAIN_AFTER


async def test_a_key_is_of_one_kind(house: House) -> None:
    """As an event key and as an answer key, whichever came first; and never one that signs tokens."""
    first, second = new_event_key(), new_event_key()
    answers = AnswerKeys(house.ledger.database, KnownNodes(house.ledger), ISSUER, frozenset(), house.clock.wall)
    stated = make_statement(PemAnswerSigner.from_pem(first), NODE, ISSUER, house.clock.now())
    await answers.register(NODE, stated)
    with pytest.raises(KeyOfAnotherKind):
        await house.keys.register(PUSHER, statement(house, PemEventSigner.from_pem(first)))
    await house.keys.register(PUSHER, statement(house, PemEventSigner.from_pem(second)))
    with pytest.raises(AnotherNodesKey, match="signs events"):
        await answers.register(NODE, make_statement(PemAnswerSigner.from_pem(second), NODE, ISSUER, house.clock.now()))
    token = new_signer()
    strict = EventKeys(house.ledger.database, ISSUER, frozenset({token.public.kid}), house.clock.wall)
    with pytest.raises(KeyOfAnotherKind, match="signs tokens"):
        await strict.register(PUSHER, statement(house, token))


async def test_nobody_states_for_another_pusher_or_copies_its_key(house: House) -> None:
    signer = new_signer()
    with pytest.raises(BadStatement):
        await house.keys.register(ClientId("pusher-2"), statement(house, signer))
    await house.keys.register(PUSHER, statement(house, signer))
    with pytest.raises(KeyOfAnotherKind, match="another pusher"):
        await house.keys.register(ClientId("pusher-2"), statement(house, signer, "pusher-2"))


async def test_a_suspended_pusher_s_keys_leave_the_set(house: House) -> None:
    signer = new_signer()
    await house.keys.register(PUSHER, statement(house, signer))
    await house.suspend(PUSHER)
    assert await house.keys.published() == ()
    await house.suspend(PUSHER, suspended=False)
    assert await house.keys.published() == (signer.public,)


async def test_a_pusher_has_a_bounded_number_of_keys(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_FOR", 60)  # neither can short lives fill the table
    for _ in range(KEYS_PER_PUSHER):
        await house.keys.register(PUSHER, statement(house, new_signer()))
        house.clock.time += 61
    with pytest.raises(TooManyEventKeys):
        await house.keys.register(PUSHER, statement(house, new_signer()))
    await house.keys.register(ClientId("pusher-2"), statement(house, new_signer(), "pusher-2"))
    house.clock.time += DAY
    await house.keys.register(PUSHER, statement(house, new_signer()))
