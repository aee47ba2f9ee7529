"""What must hold for any body, head and token, whoever sent them."""

import base64
import contextlib
import json
from urllib.parse import parse_qsl, urlencode

import msgspec
from cryptography.hazmat.primitives import serialization

from engine.consent.records import ClientId, ParticipantRecord, Role
from engine.listener.evaluation_body import BadRequest
from engine.listener.evaluation_request import MAX_ITEMS, Batch, RequestReader, Single
from engine.listener.forms import BadForm, Form, read_form
from engine.listener.forwarded import BadForwarded, read_certificate, read_forwarded
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


def check_evaluation(body: bytes) -> None:
    """The body of access evaluations: the short way and the long way say the same, and nothing is said twice."""
    read = _read_evaluations(body)
    start = body.find(b"{")
    if start < 0:
        assert read is None
        return
    unknown = b'"an unknown member":0' + (b"" if body[start + 1 :].lstrip().startswith(b"}") else b",")
    longer = _read_evaluations(body[: start + 1] + unknown + body[start + 1 :])
    assert longer == read, "an unknown member changes what it means"
    if read is None:
        return
    json.loads(body, object_pairs_hook=_without_repetition)
    if isinstance(read, Batch):
        assert 0 < len(read.items) <= MAX_ITEMS


def _read_evaluations(body: bytes) -> Single | Batch | None:
    try:
        return RequestReader().read_batch(body)
    except BadRequest as refused:
        _check_bad(refused)
        return None


def _check_bad(refused: BadRequest) -> None:
    assert refused.status == 400
    assert refused.text.isprintable()


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len({name for name, _ in pairs}) == len(pairs), "a member is said twice"
    return dict(pairs)


def check_forwarded(head: bytes) -> None:
    """Lines of header fields: at most one certificate is forwarded, and in one spelling."""
    fields = [line.partition(b":") for line in head.split(b"\n")]
    headers = tuple((name.lower(), value.strip(b" \t")) for name, _, value in fields)
    try:
        der = read_forwarded(headers)
    except BadForwarded:
        return
    named = [value for name, value in headers if name == b"client-cert"]
    assert named == ([] if der is None else [b":" + base64.b64encode(der) + b":"])
    if der is not None:
        with contextlib.suppress(BadForwarded):
            assert read_certificate(der).public_bytes(serialization.Encoding.DER) == der
