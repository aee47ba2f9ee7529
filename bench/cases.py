"""Further things our node can be asked, each measured if it answers: cold tokens, signed answers, batches."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable

import msgspec

from bench.contenders import Contender, introspections
from bench.evaluations import batch_body
from bench.generator import Question
from bench.names import BATCHES, COLD, SIGNED
from bench.population import Population
from engine.listener.evaluation_answers import BATCH_PATH
from tests.support.pki import METER_POINT

COLD_TOKENS = 8_000  # a round; under a second
BATCH = 100  # decisions
SIGNED_TYPE = b"application/token-introspection+jwt"  # RFC 9701 section 5


class Case(msgspec.Struct, frozen=True):
    """question: made anew for each round. probe: one request that shows whether the node answers so."""

    name: str
    contender: Contender
    question: Callable[[], Question]
    probe: Callable[[], Question]


def cold(population: Population, ours: Contender, *, quick: bool) -> Case:
    """Each token is seen for the first time: parsing, a PS256 signature, claims, and all that follows."""

    def question() -> Question:
        tokens = population.tokens(100 if quick else COLD_TOKENS)
        return msgspec.structs.replace(ours.question, requests=introspections(tokens), once=True)

    return Case(COLD, ours, question, lambda: _one(ours.question))


def signed(_population: Population, ours: Contender, *, quick: bool) -> Case:
    """The same questions, the answers signed for the caller (RFC 9701)."""
    del quick
    accept = b"Accept: " + SIGNED_TYPE
    requests = [
        (before.replace(b"Accept: application/json", accept), after) for before, after in ours.question.requests
    ]
    question = msgspec.structs.replace(ours.question, requests=requests, expected=b"Content-Type: " + SIGNED_TYPE)
    return Case(SIGNED, ours, lambda: question, lambda: _one(question))


def batch(_population: Population, ours: Contender, *, quick: bool) -> Case:
    """A hundred decisions in one request, each about another token that the worker knows."""
    del quick
    question = msgspec.structs.replace(
        ours.question, requests=batches(ours.question.requests), expected=b'"decision":true', items=BATCH
    )
    return Case(BATCHES, ours, lambda: question, lambda: _one(question))


def batches(requests: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The tokens of introspections, asked about by their digests, `BATCH` in one request."""
    tokens = [after.partition(b"token=")[2] for _, after in requests]
    return [_batch(tokens[start : start + BATCH]) for start in range(0, len(tokens), BATCH)]


def _batch(tokens: list[bytes]) -> tuple[bytes, bytes]:
    resource = {"type": "meter_point", "id": METER_POINT}
    named = [urlsafe_b64encode(hashlib.sha256(token).digest()).rstrip(b"=").decode() for token in tokens]
    body = batch_body([{"subject": {"type": "access_token", "id": name}, "resource": resource} for name in named])
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nX-Request-ID: " % BATCH_PATH, (
        b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def _one(question: Question) -> Question:
    """Its first request, once."""
    return msgspec.structs.replace(question, requests=question.requests[:1], once=True)
