"""The body of an introspection request, read strictly: one meaning, or refused (RFC 7662 section 2.1).

Broken percent encoding, bytes outside ASCII, NUL and a parameter that comes twice are refused; a parameter without
a value counts as absent, an unknown one is ignored (RFC 6749 sections 3.1 and 3.2). What EDPs mostly send, the
token alone, takes a short way with the same result.
"""

import re
from typing import ClassVar, Final
from urllib.parse import unquote_to_bytes

import msgspec

from engine.errors import Fault, Kind


class BadForm(Fault):
    """The one refusal: not a form with one meaning. The text names the rule, never a value."""

    kind: ClassVar[Kind] = Kind.INVALID


class Form(msgspec.Struct, frozen=True, gc=False):
    """The parameters that we know, decoded, still unjudged. None: absent or without a value."""

    token: bytes | None = None
    token_type_hint: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    client_assertion: str | None = None
    client_assertion_type: str | None = None
    ccs_dataset_id: str | None = None
    ccs_mpxn: str | None = None
    ccs_from: str | None = None
    ccs_to: str | None = None
    ccs_purpose_code: str | None = None
    ccs_share_id: str | None = None

    @property
    def asks_more(self) -> bool:
        """Whether anything is asked beyond the token itself (mode B)."""
        return bool(
            self.ccs_dataset_id
            or self.ccs_mpxn
            or self.ccs_from
            or self.ccs_to
            or self.ccs_purpose_code
            or self.ccs_share_id
        )

    @property
    def has_credentials(self) -> bool:
        """Whether the body carries a way to authenticate of its own, beside the certificate."""
        return bool(self.client_secret or self.client_assertion or self.client_assertion_type)


_TOKEN: Final = b"token"
_KNOWN: Final = {field.encode(): field for field in Form.__struct_fields__}
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def read_form(body: bytes) -> Form:
    """Read `application/x-www-form-urlencoded`. Raises BadForm and nothing else."""
    if not body.isascii() or b"\0" in body:
        raise BadForm("the body holds bytes outside ASCII, or NUL")
    if body.startswith(b"token=") and b"&" not in body and b"%" not in body and b"+" not in body:
        return Form(token=body[6:] or None)
    return _read(body)


def _read(body: bytes) -> Form:
    if _BROKEN_ESCAPE.search(body):
        raise BadForm("the percent encoding is broken")
    values: dict[bytes, bytes] = {}
    for pair in body.replace(b"+", b" ").split(b"&"):
        name, _, value = pair.partition(b"=")
        if b"%" in pair:
            name, value = _unescape(name), _unescape(value)
        if name not in _KNOWN:
            continue
        if name in values:
            raise BadForm("a parameter is repeated")
        values[name] = value
    token = values.pop(_TOKEN, b"")
    return Form(token or None, **{_KNOWN[name]: value.decode() for name, value in values.items() if value})


def _unescape(raw: bytes) -> bytes:
    """One name or value whose escapes are whole (URL Standard section 5.1), the octets held to ASCII as well."""
    octets = raw.replace(b"%3A", b":").replace(b"%3a", b":")  # in instants and meter points; escapes never overlap
    if b"%" in octets:
        octets = unquote_to_bytes(octets)
    if not octets.isascii() or b"\0" in octets:
        raise BadForm("the body holds bytes outside ASCII, or NUL")
    return octets
