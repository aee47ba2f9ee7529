"""What must hold for any body, head and token, whoever sent them."""

import base64
import json
from urllib.parse import parse_qsl, urlencode

import msgspec

from engine.consent.records import ClientId, ParticipantRecord, Role
from engine.listener.forms import BadForm, Form, read_form
from engine.listener.http1 import Request
from engine.listener.introspection_request import form_of_answer, read_ask, read_request
from engine.listener.media import HeadReader, read_head
from engine.listener.refusals import Refusal
from engine.tokens import jws

CALLER = ParticipantRecord(ClientId("edp-1"), Role.EDP, suspended=False, certificates=())
_STATUSES = {400, 401, 405, 406, 413, 415}


def check_form(body: bytes) -> None:
    """The body of an introspection: one meaning, the one that Python's own reader finds, or refused."""
    try:
        form = read_form(body)
    except BadForm:
        return
    read = {field: value for field in Form.__struct_fields__ if (value := getattr(form, field)) is not None}
    pairs = parse_qsl(body, keep_blank_values=True, strict_parsing=False, errors="strict")
    known = {name.decode(): value for name, value in pairs if name.decode() in Form.__struct_fields__ and value}
    assert {name: value if name == "token" else value.encode() for name, value in read.items()} == known
    assert read_form(urlencode(read).encode()) == form, "written anew it means something else"
    assert read_form(urlencode(read).encode() + b"&") == form, "the short way means something else"


def check_request(raw: bytes) -> None:
    """Lines of header fields, an empty one, a body: read as an introspection, or refused by a status of the sheet."""
    head, _, body = raw.partition(b"\n\n")
    fields = [line.partition(b":") for line in head.split(b"\n")]
    headers = tuple((name.lower(), value.strip(b" \t")) for name, _, value in fields)
    reader = HeadReader()
    judged = read_head(headers)
    assert reader.read(headers) == reader.read(headers) == judged, "a remembered head means something else"
    try:
        form = read_request(Request(b"POST", b"/introspect", headers, body, keep_alive=True), judged)
        form_of_answer(CALLER, judged)
        ask, token = read_ask(CALLER, form)
    except Refusal as refusal:
        _check_refusal(refusal)
        return
    assert judged.is_form
    assert judged.takes_json
    assert not judged.authorizations
    assert token
    if ask.share is not None:
        assert ask.share.data_from < ask.share.data_to


def _check_refusal(refusal: Refusal) -> None:
    assert refusal.response.status in _STATUSES
    assert refusal.response.body.startswith(b'{"error":"invalid_')


def check_token(token: bytes) -> None:
    """A compact JWS has one spelling, and its header says what another reader finds there."""
    parts = jws.split(token)
    if parts is None:
        return
    assert b".".join((parts.header, parts.payload, jws.encode_part(parts.signature))) == token
    assert token.startswith(parts.signing_input + b".")
    header = jws.read_header(parts.header)
    if isinstance(header, jws.HeaderFault):
        return
    members = json.loads(base64.urlsafe_b64decode(parts.header + b"=" * (-len(parts.header) % 4)))
    assert members.keys() == {"alg", "typ", "kid"}
    assert (members["alg"], members["kid"]) == (header.alg, header.kid)
    assert header.alg in jws.ALGORITHMS
    assert jws.encode_part(jws.decode_part(parts.header) or b"") == parts.header
    assert msgspec.json.encode(header)
