"""A node's statement about its answer key: what is taken, and everything that is not."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from engine.clock import UnixTime
from engine.tokens.answer_key_statements import (
    CLOCKS_DIFFER,
    LIFE,
    MAX_STATEMENT,
    TYPE,
    BadStatement,
    Statement,
    make_statement,
    read_statement,
)
from engine.tokens.answer_keys import PemAnswerSigner, new_answer_key
from engine.tokens.jws import encode_part
from tests.support.pki import ISSUER, NOW

SIGNER = PemAnswerSigner.from_pem(new_answer_key())
OTHER = PemAnswerSigner.from_pem(new_answer_key())
Change = Callable[[dict[str, Any]], object]


def read(raw: bytes, now: int = NOW) -> Statement:
    return read_statement(raw, node_id="node-1", issuer=ISSUER, now=UnixTime(now))


def members() -> dict[str, Any]:
    key = json.loads(msgspec.json.encode(SIGNER.public))
    return {"iss": "node-1", "aud": ISSUER, "iat": NOW, "exp": NOW + LIFE, "key": key}


def test_a_statement_of_the_nodes_own_holds() -> None:
    statement = read(make_statement(SIGNER, "node-1", ISSUER, NOW))
    assert statement.key.jwk() == SIGNER.public
    assert statement.exp == NOW + LIFE


@pytest.mark.parametrize("late", [-CLOCKS_DIFFER, CLOCKS_DIFFER])
def test_clocks_may_differ_a_little(late: int) -> None:
    assert read(make_statement(SIGNER, "node-1", ISSUER, NOW), NOW + late).iat == NOW


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(iss="node-2"),
        lambda m: m.update(aud="https://elsewhere"),
        lambda m: m.update(iat=NOW - CLOCKS_DIFFER - 1),
        lambda m: m.update(iat=NOW + CLOCKS_DIFFER + 1),
        lambda m: m.update(iat=str(NOW)),
        lambda m: m.update(exp=NOW),
        lambda m: m.update(exp=NOW + LIFE + 1),
        lambda m: m.update(more=1),
        lambda m: m.pop("exp"),
        lambda m: m["key"].update(use="enc"),
        lambda m: m["key"].pop("use"),
        lambda m: m["key"].update(alg="PS256"),
        lambda m: m["key"].update(kty="RSA"),
        lambda m: m["key"].update(crv="P-384"),
        lambda m: m["key"].update(d="x" * 43),
        lambda m: m["key"].update(x=m["key"]["x"] + "="),
        lambda m: m["key"].update(kid="A" * 43),
    ],
)
def test_every_member_is_looked_at(change: Change) -> None:
    stated = members()
    assert read(SIGNER.sign(TYPE, json.dumps(stated).encode())).exp == NOW + LIFE
    change(stated)
    with pytest.raises(BadStatement):
        read(SIGNER.sign(TYPE, json.dumps(stated).encode()))


def test_possession_is_what_it_proves() -> None:
    """Another's public key, stated under one's own signature: with one's own kid in the header, or with theirs."""
    stated = json.dumps(members()).encode()
    with pytest.raises(BadStatement, match="header"):
        read(OTHER.sign(TYPE, stated))
    _, _, signature = OTHER.sign(TYPE, stated).split(b".")
    theirs = SIGNER.sign(TYPE, stated).split(b".")[0]
    with pytest.raises(BadStatement, match="not signed"):
        read(theirs + b"." + encode_part(stated) + b"." + signature)


def test_the_name_is_the_thumbprint() -> None:
    """A kid of one's own choice could stand before another's key."""
    signer = PemAnswerSigner(ec.generate_private_key(ec.SECP256R1()))
    signer.public = msgspec.structs.replace(signer.public, kid=SIGNER.kid)  # the lie
    with pytest.raises(BadStatement, match="thumbprint"):
        read(make_statement(signer, "node-1", ISSUER, NOW))


def test_a_point_off_the_curve_is_no_key() -> None:
    stated = members()
    public = msgspec.structs.replace(SIGNER.public, x="A" * 43)
    kid = encode_part(public.thumbprint()).decode()
    signer = PemAnswerSigner.from_pem(new_answer_key())
    signer.public = msgspec.structs.replace(public, kid=kid)  # the lie
    stated["key"].update(x="A" * 43, kid=kid)
    with pytest.raises(BadStatement, match="not signed"):
        read(signer.sign(TYPE, json.dumps(stated).encode()))


@pytest.mark.parametrize(
    "raw",
    [b"", b"a.b", b"a.b.c.d.e", b"!.e30.AA", b"e30.e30.AA", b"W10.e30.AA", b"A" * (MAX_STATEMENT + 1)],
)
def test_what_is_no_statement(raw: bytes) -> None:
    with pytest.raises(BadStatement):
        read(raw)


@pytest.mark.parametrize("typ", ["token-introspection+jwt", "x+jwt"])
def test_an_answer_is_no_statement(typ: str) -> None:
    """Else what a node signs for others could be turned into a registration."""
    with pytest.raises(BadStatement, match="header"):
        read(SIGNER.sign(typ, json.dumps(members()).encode()))
