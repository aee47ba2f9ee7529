"""What an EDP's programs ask the sidecar and what it answers, as JSON: strictly read, each fault by its field. Pure.

A certificate may be told as PEM (the leaf first, as TLS libraries hand it over) or as its SHA-256, base64url as in
`x5t#S256` (RFC 8705 section 3.1). No text of a fault quotes what was sent: it may be a token.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from engine.clock import UnixTime, format_utc, parse_utc
from engine.consent.energy_consent import Instant, MeterPointText
from engine.consent.meter_points import problem_with
from engine.consent.reading import InvalidFields, InvalidText, Problem, read_struct, strict_json
from engine.consent.records import Thumbprint
from engine.errors import Kind
from engine.guard.shares import Share, Verdict

MAX_CHECK: Final = 65_536  # bytes of one question: a token has 4 KiB at most, a certificate chain some more
MAX_CHECKS: Final = 3 << 20  # bytes of a batch: 500 tokens and certificates of ordinary size
MAX_SHARES: Final = 500  # in a batch, as in one of the service's
MAX_PROBLEMS: Final = 50  # told of one request; one mistake in a loop makes 500 of the same

_DEPTH: Final = 4
_PEM: Final = re.compile(r"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")  # RFC 7468


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One share as it is told. Without `certificate`, which has line ends in it."""

    token: Annotated[str, Meta(min_length=1, max_length=8192, pattern=r"^[!-~]+$")]
    x5t_s256: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$")] | None = None
    dataset_id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{2,63}$")]
    mpxn: MeterPointText
    data_from: Instant = msgspec.field(name="from")
    data_to: Instant = msgspec.field(name="to")
    purpose_code: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,40}$")] | None = None
    share_id: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[!-~]+$")] | None = None
    dpop_jkt: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$")] | None = None


class TooLarge(InvalidText):
    """Longer than any such question."""

    kind = Kind.TOO_LARGE


def read_check(body: bytes) -> Share:
    """One share. Raises InvalidText, InvalidFields."""
    return _share(_json(body, MAX_CHECK), "")


def share_of(members: dict[str, object]) -> Share:
    """The same of members that no JSON was made of: for programs in Python. Raises InvalidFields."""
    return _share(members, "")


def read_checks(body: bytes) -> list[Share]:
    """The shares of a batch `{"shares": [...]}`, 1 to 500, in their order. Raises as `read_check`, for all at once."""
    content = _json(body, MAX_CHECKS)
    if not isinstance(content, dict) or content.keys() != {"shares"} or not isinstance(content["shares"], list):
        raise InvalidFields([Problem("shares", "must be the only member, an array")])
    if not 1 <= len(content["shares"]) <= MAX_SHARES:
        raise InvalidFields([Problem("shares", f"must hold 1 to {MAX_SHARES} shares")])
    shares: list[Share] = []
    problems: list[Problem] = []
    for number, asked in enumerate(content["shares"]):
        try:
            shares.append(_share(asked, f"shares.{number}."))
        except InvalidFields as fault:
            problems += fault.problems
    if problems:
        raise InvalidFields(problems)
    return shares


def verdict_json(verdict: Verdict) -> bytes:
    """The answer to one question."""
    return msgspec.json.encode(_verdict(verdict))


def verdicts_json(verdicts: Sequence[Verdict]) -> bytes:
    """The answer to a batch."""
    return msgspec.json.encode({"verdicts": [_verdict(verdict) for verdict in verdicts]})


def problems_json(problems: Iterable[Problem]) -> bytes:
    """The body of a 400: what is wrong, field by field."""
    told = [{"field": problem.field, "text": problem.text} for problem in problems]
    return msgspec.json.encode({"error": "invalid_request", "problems": told[:MAX_PROBLEMS]})


def _verdict(verdict: Verdict) -> dict[str, object]:
    members: dict[str, object] = {
        "allowed": verdict.allowed,
        "reason": verdict.reason,
        "freshness": verdict.freshness or None,
        "as_of": None if verdict.as_of is None else format_utc(verdict.as_of),
        "consent_id": verdict.consent_id,
        "consent_version": verdict.consent_version,
        "evidence_id": verdict.evidence_id or None,
    }
    return members if verdict.retry_after is None else members | {"retry_after": verdict.retry_after}


def _json(body: bytes, most: int) -> object:
    if len(body) > most:
        raise TooLarge("the text is too long")
    return strict_json(body, max_bytes=most, max_depth=_DEPTH)


def _share(asked: object, path: str) -> Share:
    """All of a share's faults at once. path: goes before each field."""
    problems: list[Problem] = []
    members: Any = asked
    certificate: object = None
    if isinstance(asked, dict):
        certificate = asked.get("certificate")
        members = {name: value for name, value in asked.items() if name != "certificate"}
    read: _Asked | None = None
    try:
        read = read_struct(members, _Asked, path)
    except InvalidFields as fault:
        problems += fault.problems
    thumbprint, wrong = _thumbprint(certificate, members)
    if read is not None:
        problems += [Problem(path + problem.field, problem.text) for problem in _between(read)]
    problems += [Problem(path + problem.field, problem.text) for problem in wrong]
    if problems or read is None or thumbprint is None:
        raise InvalidFields(problems)
    return Share(
        token=read.token,
        thumbprint=thumbprint,
        dataset_id=read.dataset_id,
        mpxn=read.mpxn,
        data_from=parse_utc(read.data_from),
        data_to=parse_utc(read.data_to),
        purpose_code=read.purpose_code,
        share_id=read.share_id,
        dpop_jkt=read.dpop_jkt,
    )


def _between(read: _Asked) -> Iterable[Problem]:
    """What no single pattern says."""
    if (wrong := problem_with(read.mpxn)) is not None:
        yield Problem("mpxn", wrong)
    instants: list[UnixTime] = []
    for name, text in (("from", read.data_from), ("to", read.data_to)):
        try:
            instants.append(parse_utc(text))
        except ValueError:
            yield Problem(name, "is no date and time that exists")
    if len(instants) == 2 and instants[0] >= instants[1]:
        yield Problem("to", "must be after `from`")


def _thumbprint(certificate: object, members: object) -> tuple[Thumbprint | None, list[Problem]]:
    """The SHA-256 of the ATP's certificate, told in one of two ways."""
    told = members.get("x5t_s256") if isinstance(members, dict) else None
    if (certificate is None) == (told is None):
        return None, [Problem("certificate", "must be given, or `x5t_s256` in its place, and not both")]
    if certificate is not None:
        found = _of_pem(certificate)
        return found, [] if found is not None else [Problem("certificate", "must be a certificate in PEM")]
    try:
        return Thumbprint(base64.urlsafe_b64decode(f"{told}=")), []
    except ValueError:
        return None, []  # its pattern has been told already


def _of_pem(certificate: object) -> Thumbprint | None:
    """SHA-256 of the first certificate's DER; what follows it is its chain."""
    if not isinstance(certificate, str) or (found := _PEM.match(certificate)) is None:
        return None
    try:
        der = base64.b64decode("".join(found[1].split()), validate=True)
    except ValueError:
        return None
    return Thumbprint(sha256(der).digest()) if _is_whole(der) else None


def _is_whole(der: bytes) -> bool:
    """Whether this is one DER sequence, to its last byte (X.690 section 8.1.3), so that half a file is told."""
    if len(der) < 4 or der[0] != 0x30 or der[1] != 0x82:
        return False
    return len(der) == 4 + int.from_bytes(der[2:4])
