"""The pusher's calls over real mTLS: who may not have them, and what is no call."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from engine.clock import Seconds
from engine.consent.records import Role
from engine.feed.https import FeedBroken, FeedForbidden
from engine.pusher.over_https import BODY, HttpsPushService
from engine.pusher.service import Fate, Lane, Outcome, Signed
from engine.pusher.service_calls import MAX_AT_ONCE, MESSAGEPACK
from engine.tokens.answer_key_statements import make_statement
from engine.tokens.answer_keys import PemAnswerSigner, new_answer_key
from tests.support.events import signer
from tests.support.outboxes import ISSUER, PUSHER, Furnished, House, furnished, house_like
from tests.support.pki import Pki
from tests.support.push_services import served

NO_WAIT = Seconds(0.0)
CALLS: dict[str, dict[str, Any]] = {
    "lease": {"holder": "holder-1"},
    "release": {"epoch": 1},
    "roster": {"after": 0},
    "fresh": {"lane": 0, "after": 0, "limit": 10},
    "backlog": {"client_id": "edp-1", "lane": 0, "after": 0, "limit": 10},
    "unsigned": {"after": 0, "limit": 10},
    "keep": {"epoch": 1, "signed": []},
    "tell": {"epoch": 1, "outcomes": []},
    "unpark": {"epoch": 1, "client_id": "edp-1", "at": 0},
    "event-key": {"statement": b"a.b.c"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Furnished:
    return furnished(tmp_path_factory.mktemp("house"), certificates=(pki.client(PUSHER).certificate,))


@pytest.fixture
async def house(tmp_path: Path, made: Furnished) -> AsyncIterator[House]:
    async with house_like(made, tmp_path) as house:
        yield house


@pytest.fixture
async def url(house: House, pki: Pki) -> AsyncIterator[str]:
    async with served(house, pki) as url:
        yield url


def http(pki: Pki, client_id: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(verify=pki.client_context(client_id), timeout=20, headers={"Content-Type": MESSAGEPACK})


async def test_nobody_but_a_pusher_in_good_standing_may_call(house: House, url: str, pki: Pki) -> None:
    for client_id, role in (("node-1", Role.NODE), ("edp-9", Role.EDP), ("operator-1", Role.OPERATOR)):
        await house.register(client_id, role, certificates=(pki.client(client_id).certificate,))
    stopped = (pki.client("pusher-2").certificate,)
    await house.register("pusher-2", Role.PUSHER, certificates=stopped, suspended=True)
    for client_id, status in (("node-1", 403), ("edp-9", 403), ("operator-1", 403), ("pusher-2", 403), ("nobody", 401)):
        async with http(pki, client_id) as client:
            for name, call in CALLS.items():
                answer = await client.post(f"{url}/pusher/{name}", content=msgspec.msgpack.encode(call))
                assert answer.status_code == status, (client_id, name, answer.text)


async def test_a_pusher_takes_the_lease_in_no_other_s_name(house: House, url: str, pki: Pki) -> None:
    async with http(pki, PUSHER) as client:
        for holder, status in ((f"{PUSHER}/1", 200), ("pusher-2/1", 403), (f"{PUSHER}x/1", 403), (f"{PUSHER}/1", 200)):
            answer = await client.post(f"{url}/pusher/lease", content=msgspec.msgpack.encode({"holder": holder}))
            assert answer.status_code == status, (holder, answer.text)
    lease = (await house.outbox.figures()).lease
    assert lease is not None
    assert lease.holder == f"{PUSHER}/1"


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("lease", {"holder": ""}),
        ("lease", {"holder": "x" * 65}),
        ("lease", {"more": 1}),
        ("fresh", {"lane": 3}),
        ("fresh", {"limit": 0}),
        ("fresh", {"limit": 1_001}),
        ("fresh", {"after": -1}),
        ("fresh", {"wait": -1}),
        ("backlog", {"client_id": "No Client"}),
        ("keep", {"signed": [[1, b"x"]] * 1_001}),
        ("keep", {"signed": [[1, b"x" * 65_537]]}),
        ("keep", {"signed": [[1]]}),
        ("tell", {"outcomes": [[1, "lost", 1, 0.5]]}),
        ("event-key", {"statement": b"x" * 2_049}),
        ("event-key", {"statement": b"a.b.c"}),
    ],
)
async def test_what_is_no_call_is_refused(url: str, pki: Pki, name: str, changed: dict[str, Any]) -> None:
    async with http(pki, PUSHER) as client:
        answer = await client.post(f"{url}/pusher/{name}", content=msgspec.msgpack.encode(CALLS[name] | changed))
    assert answer.status_code == 400, answer.text


async def test_what_is_no_body_is_refused(url: str, pki: Pki) -> None:
    async with http(pki, PUSHER) as client:
        for body in (b"", b"\xc1", b"{}", msgspec.msgpack.encode([1, 2])):
            assert (await client.post(f"{url}/pusher/fresh", content=body)).status_code == 400
        form = {"Content-Type": "application/json"}
        assert (await client.post(f"{url}/pusher/fresh", content=b"{}", headers=form)).status_code == 400
        assert (await client.post(f"{url}/pusher/keep", content=b"x" * 1_048_577)).status_code == 413
        assert (await client.get(f"{url}/pusher/roster")).status_code == 405


async def test_long_calls_go_in_parts(house: House, url: str, pki: Pki) -> None:
    events = [house.granting() for _ in range(30)]
    await house.write(*events)
    await house.settle()
    service = HttpsPushService(url, pki.client_context(PUSHER))
    epoch = (await service.lease("holder-1", None)).epoch
    made = await service.unsigned(0, 10_000, NO_WAIT)
    signed = [Signed(one.number, b"%d." % one.number + b"s" * 40_000) for one in made]
    assert len(made) * 40_000 > 2 * BODY
    assert await service.keep(epoch, signed) == signed
    outcomes = [Outcome(number, Fate.DONE, 1, 0.5) for number in range(1, MAX_AT_ONCE + 1)]
    await service.tell(epoch, outcomes, 1)
    assert await service.fresh(Lane.ORDINARY, 0, 100, NO_WAIT) == []
    await service.aclose()


async def test_a_key_of_another_kind_or_of_another_pusher_is_refused(house: House, url: str, pki: Pki) -> None:
    service = HttpsPushService(url, pki.client_context(PUSHER))
    now = house.clock.now()
    answers = PemAnswerSigner.from_pem(new_answer_key())
    for statement in (
        make_statement(answers, PUSHER, ISSUER, now),  # about an answer key
        signer().sign_key_statement("pusher-2", ISSUER, now),
        signer().sign_key_statement(PUSHER, "https://elsewhere.example", now),
    ):
        with pytest.raises(FeedBroken):
            await service.register_event_key(statement)
    assert await house.keys.published() == ()
    await service.aclose()


async def test_the_client_says_when_it_is_refused(url: str, house: House, pki: Pki) -> None:
    await house.register("node-1", Role.NODE, certificates=(pki.client("node-1").certificate,))
    service = HttpsPushService(url, pki.client_context("node-1"))
    with pytest.raises(FeedForbidden):
        await service.lease("holder-1", None)
    await service.aclose()
