"""A plain answer's bytes wrapped and signed (RFC 9701 section 5): who answered whom, when, and which question.

Put together by concatenation, never encoded anew: what stands under `token_introspection` is byte for byte what a
plain answer would have been. There is no top-level `sub` or `exp`, so that an answer cannot pass as another token.
"""

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


def signed_response(body: bytes) -> Response:
    """The answer to a request whose form is SIGNED."""
    return Response(200, body, content_type=SIGNED)


def shown_code(answer: Active | Inactive, *, switched_on: bool) -> Reason | None:
    """What an EDP may learn of a no: that the content is not consented; nothing of the token, ever."""
    if not switched_on or isinstance(answer, Active) or answer.reason is Reason.TOKEN:
        return None
    return answer.reason
