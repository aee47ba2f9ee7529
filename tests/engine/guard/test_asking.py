"""Each share is asked about by itself; what comes back and is no answer is asked again, told, and opens nothing."""

import json

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs
from trio.testing import MockClock

from engine.clock import UnixTime
from engine.guard.calls import Call, Reply
from engine.guard.config import AnswerForm
from engine.guard.shares import Reason
from engine.tokens.answer_keys import PemAnswerSigner
from engine.tokens.jws import encode_part
from engine.tokens.verify import token_digest
from tests.support.guard_answers import EDP, ISSUER, SIGNER, jwks, jwt, members, plain, signed
from tests.support.guard_stand import INACTIVE, Behaviour, Nodes, Stand, answers, answers_signed, says, token_of
from tests.support.guard_words import NOW, share

OTHER = PemAnswerSigner(ec.generate_private_key(ec.SECP256R1()))
MEDIA = b"application/token-introspection+jwt"


def now() -> UnixTime:
    return UnixTime(NOW + int(trio.current_time()))


def by(signer: PemAnswerSigner) -> Behaviour:
    """Rightly signed answers, by a key."""

    def behave(call: Call) -> Reply:
        return Reply(200, MEDIA, signed(plain(now=now()), token_of(call), now(), signer), call.request_id)

    return behave


def saying(**claims: object) -> Behaviour:
    """Rightly signed as well, but for some claims of the envelope."""

    def behave(call: Call) -> Reply:
        ath = encode_part(token_digest(token_of(call).encode())).decode()
        envelope = {"iss": ISSUER, "aud": EDP, "iat": now(), "ath": ath, "token_introspection": members(now=now())}
        return Reply(200, MEDIA, jwt(json.dumps(envelope | claims).encode()), call.request_id)

    return behave


def forged(call: Call) -> Reply:
    """Another's signature under the issuer's key id."""
    body = signed(plain(now=now()), token_of(call), now())
    other = signed(plain(now=now()), token_of(call), now(), OTHER)
    return Reply(200, MEDIA, body.rpartition(b".")[0] + b"." + other.rpartition(b".")[2], call.request_id)


class Issuing(Nodes):
    """An issuer whose keys change. fetched: how often they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.fetched = jwks(), 0

    async def call(self, address: str, call: Call) -> Reply:
        if address != ISSUER:
            return await super().call(address, call)
        self.fetched += 1
        return Reply(200, b"application/json", self.keys)


def signed_stand(autojump_clock: MockClock) -> tuple[Stand, Issuing]:
    """A guard whose EDP has signed answers; its issuer."""
    nodes = Issuing()
    nodes.all(answers_signed())
    return Stand(autojump_clock, nodes=nodes, answers=AnswerForm.SIGNED), nodes


async def test_each_share_has_its_own_answer_one_after_the_other_and_at_once(autojump_clock: MockClock) -> None:
    """A good answer that is a moment old allows nothing, and no two shares rest on one answer."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        for _ in range(3):
            assert (await stand.guard.check(share())).allowed
        assert len(stand.nodes.calls) == 3
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(stand.guard.check, share())
        assert len(stand.nodes.calls) == 8
        stand.nodes.all(says(INACTIVE))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE


async def test_a_new_key_of_answers_is_fetched_once_and_at_most_once_a_minute(autojump_clock: MockClock) -> None:
    stand, nodes = signed_stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        assert nodes.fetched == 1
        await trio.sleep(60)
        nodes.keys = jwks(SIGNER, OTHER)
        nodes.all(by(OTHER))
        for _ in range(3):  # a rotation: one fetch, within the attempt
            nodes.calls.clear()
            assert (await stand.guard.check(share())).allowed
            assert (len(nodes.calls), nodes.fetched) == (1, 2)
        nodes.all(by(PemAnswerSigner(ec.generate_private_key(ec.SECP256R1()))))
        assert (await stand.guard.check(share())).reason is Reason.NO_ANSWER
        assert nodes.fetched == 2, "nobody can make us fetch at will"


@pytest.mark.parametrize(
    ("behaviour", "doubt"),
    [
        (forged, "signature"),
        (saying(iss="https://other.example"), "issuer"),
        (saying(aud="edp-1"), "audience"),
        (saying(ath="A" * 43), "question"),
        (saying(iat=NOW - 4_000), "time"),
        (answers(), "media_type"),  # plain where signed answers are registered
    ],
    ids=["signature", "issuer", "audience", "question", "time", "media_type"],
)
async def test_what_is_no_answer_is_asked_again_is_a_security_event_and_no_outage(
    autojump_clock: MockClock, behaviour: Behaviour, doubt: str
) -> None:
    """Though it is known, and good for a fallback: whoever sits on the line could otherwise force one."""
    stand, nodes = signed_stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        nodes.calls.clear()
        nodes.all(behaviour)
        with capture_logs() as logs:
            verdict = await stand.guard.check(share())
        assert (verdict.allowed, verdict.reason) == (False, Reason.NO_ANSWER)
        assert len(nodes.calls) == 4
        assert stand.guard.status().circuit == "closed"
    told = [line for line in logs if line["event"] == "security_event"]
    assert [(line["kind"], line["log_level"]) for line in told] == [(f"answer_{doubt}", "warning")] * 4


async def test_a_flood_of_what_is_no_answer_is_counted_and_not_written(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(says(b"<html>"))
        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                for _ in range(500):
                    nursery.start_soon(stand.guard.check, share())
        assert len(stand.nodes.calls) > 500
        assert 0 < len([line for line in logs if line["event"] == "security_event"]) < 100


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 409, 410, 415, 422, 431, 451])
async def test_no_other_4xx_is_retried_or_an_outage(autojump_clock: MockClock, status: int) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.nodes.calls.clear()
        stand.nodes.all(says(b'{"error":"invalid_request"}', status))
        verdict = await stand.guard.check(share())
        assert (verdict.allowed, len(stand.nodes.calls)) == (False, 1)
        assert verdict.reason in (Reason.REFUSED_CALLER, Reason.BAD_REQUEST)
        assert (stand.guard.status().circuit, stand.evidence.entries) == ("closed", [])
