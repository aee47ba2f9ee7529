"""An answer as the JSON of RFC 7662 section 2.2: sixteen bytes and no more for a no, and the cut details for a yes.

What is shown is what token and consent allow *together, now*: a window cut after the token was issued is shown cut.
The version is the record's newest, because it orders this answer against pushed events; after a renewal a token of
before it therefore shows the new version beside the old expiry, which is all that this token may use. This is on the
hot path: structs are encoded straight to bytes, and an unchanged detail is the token's own.
"""

from typing import Final

import msgspec

from engine.clock import UnixTime, format_utc
from engine.consent.records import ClientId, ConsentRecord
from engine.decision.decide import current_expiry, current_window
from engine.decision.freshness import Freshness
from engine.decision.questions import Active, Inactive
from engine.tokens.claims import Confirmation, ConsentDetail, Grant

INACTIVE: Final = b'{"active":false}'  # rows 18 to 28 of the sheet's section 8: byte-identical, whatever the reason


class ActiveAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Members in the order of the sheet. Times are whole seconds, those inside details RFC 3339 text."""

    active: bool
    iss: str
    aud: ClientId
    client_id: ClientId
    token_type: str
    iat: int
    exp: int
    sub: str
    jti: str
    cnf: Confirmation
    authorization_details: tuple[ConsentDetail, ...]
    ccs_consent_version: int
    ccs_freshness: str
    ccs_as_of: UnixTime
    ccs_last_known_until: UnixTime
    nbf: int | None = None


_encode: Final = msgspec.json.Encoder().encode


def render(answer: Active | Inactive) -> bytes:
    """The body of a plain answer. The reason of a no stays in the house."""
    return INACTIVE if isinstance(answer, Inactive) else _encode(active_answer(answer))


def active_answer(answer: Active) -> ActiveAnswer:
    """The members of a yes; also what a signed answer carries."""
    claims, freshness = answer.token.claims, answer.freshness
    return ActiveAnswer(
        True,  # noqa: FBT003 - the member `active`
        claims.iss,
        claims.aud,
        claims.client_id,
        "Bearer" if claims.cnf.jkt is None else "DPoP",
        claims.iat,
        answer.expires_at,
        claims.sub,
        claims.jti,
        claims.cnf,
        tuple([_shown(grant, record) for grant, record in answer.grants]),
        answer.consent_version,
        freshness.state.value,
        freshness.as_of,
        min(freshness.last_known_until, answer.consent_ends_at),  # no outage lengthens a consent
        claims.nbf,
    )


def stable_part(body: bytes, answer: Active) -> bytes | None:
    """What of a yes stays the same as long as token and consents do; with `fresh_part` behind it, it is `render`'s.

    body: as `render` gave it. None: this answer cannot be told in two parts.
    """
    fresh = fresh_part(answer.freshness, answer.consent_ends_at)
    return body[: -len(fresh)] if body.endswith(fresh) else None


def fresh_part(freshness: Freshness, consent_ends_at: UnixTime) -> bytes:
    """What of a yes each moment says anew; see `stable_part`."""
    until = min(freshness.last_known_until, consent_ends_at)
    state = freshness.state.value.encode()
    return b'"ccs_freshness":"%b","ccs_as_of":%d,"ccs_last_known_until":%d}' % (state, freshness.as_of, until)


def _shown(grant: Grant, record: ConsentRecord) -> ConsentDetail:
    """The token's own detail, cut where the consent has become narrower since."""
    if (
        record.data_from <= grant.data_from
        and record.expires_at >= grant.expires_at
        and (record.data_to is None or (grant.data_to is not None and grant.data_to <= record.data_to))
    ):
        return grant.detail
    start, end = current_window(grant, record)
    is_open_ended = grant.data_to is None and record.data_to is None
    return msgspec.structs.replace(
        grant.detail,
        consent_expires_at=format_utc(current_expiry(grant, record)),
        data_from=format_utc(start),
        data_to=None if is_open_ended else format_utc(end),
    )
