"""Claims of one-offs: bounded waits, and nobody waits for a feed service that others have just waited for in vain."""

import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.config import Feed
from engine.consent.records import ClientId, ConsentId
from engine.decision.questions import ClaimResult
from engine.errors import Fault
from engine.listener.introspection import LOOK_TIMEOUT, STEPS_TIMEOUT
from engine.node.claims import CLAIM_TIMEOUT, REST, FeedClaims
from engine.node.feed_access import FeedAccess
from tests.support.mutual_tls import Authority

CONSENT = ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10")
EDP = ClientId("edp-1")


class Service:
    """A feed service that can fall silent, deaf even to cancellation as a connection being opened is, or refuse."""

    def __init__(self) -> None:
        self.asked = 0
        self.silent = self.refusing = False
        self.held = True

    async def claim(self, consent_id: str, edp: str, share_id: str) -> bool:
        assert (consent_id, edp, share_id) == (CONSENT, EDP, "share-1")
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.silent:
            with trio.CancelScope(shield=True):
                await trio.sleep(3.0)
        if self.silent or self.refusing:
            raise Fault("the feed service does not answer")
        return self.held


async def ask(claims: FeedClaims) -> ClaimResult:
    return await claims.claim(CONSENT, EDP, "share-1")


@pytest.mark.parametrize(("held", "result"), [(True, ClaimResult.HELD), (False, ClaimResult.TAKEN)])
async def test_the_feed_service_says_whose_it_is(nursery: trio.Nursery, held: bool, result: ClaimResult) -> None:
    service = Service()
    service.held = held
    assert await ask(FeedClaims(service, nursery)) is result


async def test_a_refusal_is_no_answer_and_the_next_one_asks_again(nursery: trio.Nursery) -> None:
    service = Service()
    service.refusing = True
    claims = FeedClaims(service, nursery)
    assert await ask(claims) is ClaimResult.UNREACHABLE
    service.refusing = False
    assert await ask(claims) is ClaimResult.HELD


def test_all_waiting_of_a_request_stays_within_an_edps_time_out() -> None:
    assert CLAIM_TIMEOUT + LOOK_TIMEOUT <= STEPS_TIMEOUT <= 1.0


async def test_a_silent_feed_service_is_waited_for_once_and_not_by_those_that_follow(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    service = Service()
    service.silent = True
    claims = FeedClaims(service, nursery)
    began = trio.current_time()
    assert await ask(claims) is ClaimResult.UNREACHABLE
    waited = trio.current_time() - began
    assert waited == pytest.approx(CLAIM_TIMEOUT)
    for _ in range(100):
        assert await ask(claims) is ClaimResult.UNREACHABLE
    assert trio.current_time() - began == waited
    assert service.asked == 1
    autojump_clock.jump(REST)
    service.silent = False
    assert [await ask(claims) for _ in range(2)] == [ClaimResult.HELD] * 2


async def test_one_request_tries_a_dead_feed_service_while_the_others_do_not_wait(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    service = Service()
    service.silent = True
    claims = FeedClaims(service, nursery)
    await ask(claims)
    autojump_clock.jump(REST)
    waits: list[float] = []

    async def timed() -> None:
        began = trio.current_time()
        assert await ask(claims) is ClaimResult.UNREACHABLE
        waits.append(trio.current_time() - began)

    async with trio.open_nursery() as callers:
        for _ in range(10):
            callers.start_soon(timed)
    assert sorted(waits) == pytest.approx([0.0] * 9 + [CLAIM_TIMEOUT])
    assert service.asked == 2


async def test_a_real_port_that_never_speaks_tls_is_given_up(tmp_path: Path, nursery: trio.Nursery) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("node")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        feed = FeedAccess(
            Feed(
                url=f"https://127.0.0.1:{silent.getsockname()[1]}/feed",
                mac_key_files=(),
                meter_key_file=key,
                ca_file=authority.file,
                certificate_file=certificate,
                key_file=key,
            )
        )
        claims = FeedClaims(feed, nursery)
        await feed._loaded()  # httpx2, in a thread that nobody can break off
        with trio.fail_after(2.5):  # less than a connection's own limit
            assert await ask(claims) is ClaimResult.UNREACHABLE
        nursery.cancel_scope.cancel()
