"""What a request for evaluations is sent: decisions, plain or signed; the refusal of it all; the metadata."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from engine.decision.evaluations import Evidence, Outcome, Verdict
from engine.errors import Fault
from engine.listener.evaluation_body import BadRequest
from engine.listener.evaluation_head import SIGNED
from engine.listener.evaluation_snapshot import Snapshot
from engine.listener.http1 import Request, Response
from engine.listener.refusals import Refusal
from engine.listener.tls import Peer
from engine.tokens.jws import encode_part

SINGLE_PATH: Final = b"/access/v1/evaluation"
BATCH_PATH: Final = b"/access/v1/evaluations"
METADATA_PATH: Final = b"/.well-known/authzen-configuration"
TYPE_OF_SIGNED: Final = "ccs-decision+jwt"
CALLER_NOT_ALLOWED: Final = b'"caller not allowed"'

_TEXTS: Final = {400: "caller not known", 401: "caller not known", 429: "too many evaluations"}


class CountMany(Protocol):
    """So many more; a tally's own `add`."""

    def __call__(self, count: int, /) -> object: ...


class AnswerWriter:
    """Renders and counts. identifier: the PDP's. counts: one for each Outcome. draw_id: see `Evaluations`."""

    def __init__(self, identifier: str, counts: Mapping[Outcome, CountMany], draw_id: Callable[[], str]) -> None:
        self._identifier = identifier
        self._counts = [(outcome, counts[outcome]) for outcome in Outcome if outcome is not Outcome.PERMITTED]
        self._count_permitted = counts[Outcome.PERMITTED]
        self._draw_id = draw_id

    def respond(self, snapshot: Snapshot, verdicts: list[Verdict], asked: bytes, *, is_batch: bool) -> Response:
        """The answer to a request. asked: its body, which a signed answer names."""
        self._count(verdicts)
        evidence = Evidence(f"d_{self._draw_id()}", snapshot.under.now, snapshot.under.freshness)
        body = evidence.render_batch(verdicts) if is_batch else evidence.render_single(verdicts[0])
        if snapshot.signer is None:
            return Response(200, body)
        claims = {
            "iss": self._identifier,
            "aud": snapshot.under.caller,
            "iat": snapshot.under.now,
            "req": encode_part(hashlib.sha256(asked).digest()).decode(),
            "result": msgspec.Raw(body),
        }
        return Response(200, snapshot.signer.sign(TYPE_OF_SIGNED, msgspec.json.encode(claims)), SIGNED)

    def _count(self, verdicts: list[Verdict]) -> None:
        outcomes = [verdict.outcome for verdict in verdicts]
        permitted = outcomes.count(Outcome.PERMITTED)
        self._count_permitted(permitted)
        if permitted < len(outcomes):
            for outcome, count in self._counts:
                count(outcomes.count(outcome))


def refused(fault: BadRequest | Refusal | Fault) -> Response:
    """The answer to a request that is refused as a whole: its body is a JSON string, for people."""
    if isinstance(fault, BadRequest):
        headers = ((b"Allow", fault.allow),) if fault.allow else ()
        return Response(fault.status, _text(fault.text), headers=headers, close=fault.status == 413)
    if isinstance(fault, Refusal):
        response = fault.response
        status = 401 if response.status == 400 else response.status  # no certificate is no known caller either
        text = _text(_TEXTS[response.status]) if response.status in _TEXTS else response.body
        return msgspec.structs.replace(response, status=status, body=text)
    return Response(503, _text("temporarily unavailable"), headers=((b"Retry-After", b"5"),))


def metadata(identifier: str) -> Callable[[Request, Peer], Response]:
    """Handler of the PDP's metadata. identifier: https, without a path, so that nothing follows the well-known one."""
    members = {
        "policy_decision_point": identifier,
        "access_evaluation_endpoint": identifier + SINGLE_PATH.decode(),
        "access_evaluations_endpoint": identifier + BATCH_PATH.decode(),
    }
    answer = Response(200, msgspec.json.encode(members))
    not_allowed = Response(405, _text("method not allowed"), headers=((b"Allow", b"GET, HEAD"),))

    def handle(request: Request, _peer: Peer) -> Response:
        return answer if request.method in (b"GET", b"HEAD") else not_allowed

    return handle


def _text(message: str) -> bytes:
    return msgspec.json.encode(message)
