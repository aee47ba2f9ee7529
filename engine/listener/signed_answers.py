"""A plain answer's bytes wrapped and signed (RFC 9701 section 5): who answered whom, when, and which question.

Put together by concatenation, never encoded anew: what stands under `token_introspection` is byte for byte what a
plain answer would have been. There is no top-level `sub` or `exp`, so that an answer cannot pass as another token.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.decision.answers import INACTIVE
from engine.decision.questions import Active, Inactive, Reason
from engine.listener.http1 import Response
from engine.listener.media import SIGNED
from engine.tokens.answer_keys import AnswerSigner
from engine.tokens.jws import encode_part

TYPE: Final = "token-introspection+jwt"  # RFC 9701 section 5, compared without case

_text: Final = msgspec.json.Encoder().encode


def signed_body(
    signer: AnswerSigner,
    issuer: str,
    audience: ClientId,
    iat: UnixTime,
    token_digest: bytes,
    plain: bytes,
    code: Reason | None = None,
) -> bytes:
    """The compact JWS around a plain answer.

    audience: the calling EDP. token_digest: SHA-256 of the token that was sent. plain: the body of the plain form, a
    JSON object. code: why not (`shown_code`), beside a no only; ValueError for anything else.
    """
    if code is not None and (plain != INACTIVE or code is Reason.TOKEN):
        raise ValueError("only a no to the content asked for has a code")
    decision = b"" if code is None else b',"ccs_decision":{"code":%b}' % _text(code)
    claims = b'{"iss":%b,"aud":%b,"iat":%d,"ath":"%b","token_introspection":%b%b}' % (
        _text(issuer),
        _text(audience),
        iat,
        encode_part(token_digest),
        plain,
        decision,
    )
    return signer.sign(TYPE, claims)


class Signing:
    """How a worker signs. issuer: in whose name. shows_codes: whether EDPs learn why content was refused.

    signer: gives the key that the issuer publishes now; None = there is none yet, and nobody gets a signed answer.
    """

    def __init__(
        self, issuer: str, signer: Callable[[UnixTime], AnswerSigner | None], *, shows_codes: bool = False
    ) -> None:
        self._issuer = issuer
        self._signer = signer
        self._shows_codes = shows_codes

    def begin(self, audience: ClientId, token_digest: bytes, now: UnixTime) -> "Envelope | None":
        """For one answer to one question; None = nothing can be signed now."""
        signer = self._signer(now)
        if signer is None:
            return None
        return Envelope(self._issuer, signer, audience, token_digest, now, self._shows_codes)


class Envelope(msgspec.Struct, frozen=True):
    """What goes around one plain answer."""

    issuer: str
    signer: AnswerSigner
    audience: ClientId
    token_digest: bytes
    at: UnixTime
    shows_codes: bool

    def close(self, plain: bytes, answer: Active | Inactive | None = None) -> Response:
        """The signed answer. plain: its plain body. answer: what it says, where that may be a no."""
        code = None if answer is None else shown_code(answer, switched_on=self.shows_codes)
        body = signed_body(self.signer, self.issuer, self.audience, self.at, self.token_digest, plain, code)
        return signed_response(body)


NO_SIGNING: Final = Signing("", lambda _now: None)


def signed_response(body: bytes) -> Response:
    """The answer to a request whose form is SIGNED."""
    return Response(200, body, content_type=SIGNED)


def shown_code(answer: Active | Inactive, *, switched_on: bool) -> Reason | None:
    """What an EDP may learn of a no: that the content is not consented; nothing of the token, ever."""
    if not switched_on or isinstance(answer, Active) or answer.reason is Reason.TOKEN:
        return None
    return answer.reason
