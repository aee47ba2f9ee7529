"""What a good token becomes, at its edges in time and form, and against an independent implementation."""

import hashlib
import json
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jwk import KeySet as OracleKeySet

from admin.authorization.minting import Minted
from admin.pki.keys import FileTokenSigner, TokenKey, private_pem
from engine.clock import UnixTime
from engine.consent.meter_points import meter_digest
from engine.consent.records import AccessMode
from engine.tokens.claims import MAX_PRESENTED_BYTES, AccessToken, ConsentDetail, PresentedClaims
from engine.tokens.grants import KnownDetails
from engine.tokens.keys import KeySet
from engine.tokens.verify import TokenRefusal, VerifiedToken, verify
from tests.support.bad_tokens import Forge, compact
from tests.support.pki import (
    CONSENT_ID,
    LIFETIME,
    METER_KEY,
    METER_POINT,
    NOW,
    MakeToken,
    granted_consent,
    key_set_of,
)

ALGORITHMS = ("PS256", "ES256", "EdDSA")
# RFC 9864 gives Ed25519 a full name; FAPI 2.0 still asks for the old one (Security Profile section 5.4.1).
pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")
END = UnixTime(NOW + int(LIFETIME))


@pytest.fixture(scope="module")
def forge(make_token: MakeToken, token_keys: dict[str, TokenKey]) -> Forge:
    return Forge(make_token(), token_keys)


def verified(token: bytes, keys: KeySet, now: int = NOW) -> VerifiedToken:
    result = verify(token, keys, METER_KEY, UnixTime(now))
    assert isinstance(result, VerifiedToken)
    return result


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_minted_token_verifies(alg: str, make_token: MakeToken, token_keys: dict[str, TokenKey]) -> None:
    signer = FileTokenSigner(token_keys[alg])
    minted = make_token(signer=signer)
    token = verified(minted.token, key_set_of(signer))
    assert token.claims == minted.claims
    assert token.kid == signer.public.kid
    assert token.digest == minted.digest == hashlib.sha256(minted.token).digest()
    assert token.revocation_key == hashlib.sha256(minted.claims.jti.encode()).digest()[:16]
    assert token.key_thumbprint == signer.public.thumbprint()


def test_details_become_a_grant(make_token: MakeToken, key_set: KeySet) -> None:
    (grant,) = verified(make_token().token, key_set).grants
    key = uuid.UUID(CONSENT_ID).bytes
    assert grant.key == key
    assert grant.access_mode is AccessMode.ENDURING
    assert grant.meter_digests == (meter_digest(METER_KEY, grant.key, METER_POINT),)
    record = granted_consent().record
    assert (grant.expires_at, grant.data_from, grant.data_to) == (record.expires_at, record.data_from, record.data_to)
    assert grant.meter_digests == record.meter_digests


def test_token_for_several_consents_keeps_their_order(make_token: MakeToken, key_set: KeySet) -> None:
    ids = [str(uuid.UUID(int=n, version=4)) for n in (3, 1, 2)]
    minted = make_token(consents=tuple(granted_consent(consent_id) for consent_id in ids))
    assert [grant.detail.consent_id for grant in verified(minted.token, key_set).grants] == ids


def test_token_is_good_until_the_second_it_expires(make_token: MakeToken, key_set: KeySet) -> None:
    token = make_token().token
    assert verified(token, key_set, END - 1)
    assert verify(token, key_set, METER_KEY, END) is TokenRefusal.EXPIRED


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_clock_of_the_issuer_may_be_ten_seconds_ahead(claim: str, forge: Forge, key_set: KeySet) -> None:
    assert verified(forge.claiming(**{claim: NOW + 10}), key_set)
    assert verify(forge.claiming(**{claim: NOW + 11}), key_set, METER_KEY, NOW) is TokenRefusal.NOT_YET_VALID


@pytest.mark.parametrize(
    "good",
    [
        lambda f: f.headed(typ="application/at+jwt"),
        lambda f: f.headed(typ="AT+JWT"),
        lambda f: f.signed(header=dict(reversed(f.header.items()))),
        lambda f: f.signed(header=json.dumps(f.header, indent=1).encode()),
        lambda f: f.signed(payload=json.dumps(f.claims, indent=1).encode()),
        lambda f: f.claiming(scope="read", acr="1", auth_time=NOW),
        lambda f: f.claiming(cnf={"jkt": "A" * 43}),
        lambda f: f.claiming(cnf={"jkt": "A" * 43, "x5t#S256": "A" * 43, "osc": {}}),
        lambda f: f.detailed(meter_points=["mprn:3938424403", "mpan:2000000000024"]),
        lambda f: f.detailed(access_mode="one_off", data_to="2026-11-22T00:00:00Z"),
        lambda f: f.detailed(actions=["read"], locations=["https://api.edp.example/hh"], purpose_code="advice"),
    ],
)
def test_another_honest_form_is_taken(good: Any, forge: Forge, key_set: KeySet) -> None:
    """The header in another spelling, members that RFC 9068 knows and we do not use, spaces between members."""
    assert verified(good(forge), key_set)


def test_longest_token_is_looked_at_and_a_longer_one_is_not(forge: Forge, key_set: KeySet) -> None:
    tokens = [forge.claiming(filler="x" * length) for length in range(4900, 5400)]
    longest = max((token for token in tokens if len(token) <= MAX_PRESENTED_BYTES), key=len)
    shortest_too_long = min((token for token in tokens if len(token) > MAX_PRESENTED_BYTES), key=len)
    assert len(longest) >= MAX_PRESENTED_BYTES - 1
    assert verified(longest, key_set)
    assert verify(shortest_too_long, key_set, METER_KEY, NOW) is TokenRefusal.SHAPE


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_oracle_takes_what_we_mint(alg: str, make_token: MakeToken, token_keys: dict[str, TokenKey]) -> None:
    signer = FileTokenSigner(token_keys[alg])
    minted = make_token(signer=signer)
    keys = OracleKeySet.import_key_set({"keys": [json.loads(msgspec.json.encode(signer.public))]})
    decoded = jwt.decode(minted.token.decode(), keys, algorithms=[alg])
    assert decoded.header == {"typ": "at+jwt", "alg": alg, "kid": signer.public.kid}
    assert decoded.claims == json.loads(msgspec.json.encode(minted.claims))


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_we_take_what_the_oracle_signs(alg: str, forge: Forge, token_keys: dict[str, TokenKey]) -> None:
    signer = FileTokenSigner(token_keys[alg])
    kind = {"PS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey}[alg]
    key = kind.import_key(private_pem(token_keys[alg]))
    assert key.thumbprint() == signer.public.kid  # RFC 7638, computed by somebody else
    header = {"alg": alg, "kid": signer.public.kid, "typ": "at+jwt"}
    token = jwt.encode(header, forge.claims, key, algorithms=[alg]).encode()
    assert verified(token, key_set_of(signer))


# What mutation does to a token: bytes changed, put in, taken out, parts exchanged with those of another good token.
_edits = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete"]), st.integers(0, 1300), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def _edited(token: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    raw = bytearray(token)
    for what, place, byte in edits:
        at = place % (len(raw) or 1)
        if what == "insert":
            raw.insert(at, byte)
        elif raw and what == "set":
            raw[at] = byte
        elif raw:
            del raw[at]
    return bytes(raw)


@pytest.fixture(scope="module")
def pair(make_token: MakeToken) -> tuple[Minted, Minted]:
    """Two good tokens, for two EDPs."""
    return make_token(), make_token(edp="edp-2")


@pytest.fixture(scope="module")
def keys(token_signer: FileTokenSigner) -> KeySet:
    """One set for all examples of a property: what it remembers must not help anybody."""
    return key_set_of(token_signer)


@given(edits=_edits)
@settings(max_examples=500, deadline=None)
def test_edited_token_is_refused(pair: tuple[Minted, Minted], keys: KeySet, edits: list[tuple[str, int, int]]) -> None:
    token = _edited(pair[0].token, edits)
    result = verify(token, keys, METER_KEY, NOW)
    assert isinstance(result, TokenRefusal) or token == pair[0].token


@given(
    picks=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=5),
    glue=st.sampled_from([b".", b"", b"..", b"=.", b"\n."]),
)
@settings(max_examples=200, deadline=None)
def test_parts_in_another_order_are_refused(
    pair: tuple[Minted, Minted], keys: KeySet, picks: list[tuple[int, int]], glue: bytes
) -> None:
    token = glue.join(pair[which].token.split(b".")[index] for which, index in picks)
    result = verify(token, keys, METER_KEY, NOW)
    assert isinstance(result, TokenRefusal) or token in {minted.token for minted in pair}


@given(token=st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(keys: KeySet, token: bytes) -> None:
    assert isinstance(verify(token, keys, METER_KEY, NOW), TokenRefusal)


def test_every_single_bit_counts(pair: tuple[Minted, Minted], keys: KeySet) -> None:
    token = pair[0].token
    for index in range(len(token)):
        for bit in range(8):
            flipped = token[:index] + bytes([token[index] ^ (1 << bit)]) + token[index + 1 :]
            assert isinstance(verify(flipped, keys, METER_KEY, NOW), TokenRefusal), (index, bit)


def test_claims_are_held_to_the_same_forms_whether_or_not_the_details_are_read() -> None:
    read, presented = (
        {field.name: (field.type, field.default) for field in msgspec.structs.fields(claims)}
        for claims in (AccessToken, PresentedClaims)
    )
    assert list(read) == list(presented)
    assert {name for name in read if read[name] != presented[name]} == {"authorization_details"}


def test_details_of_a_verified_token_are_read_once(make_token: MakeToken, keys: KeySet) -> None:
    known = KnownDetails(10)
    first, second = (verify(make_token().token, keys, METER_KEY, NOW, known=known) for _ in range(2))
    assert isinstance(first, VerifiedToken)
    assert isinstance(second, VerifiedToken)
    assert first.claims.jti != second.claims.jti
    assert first.grants is second.grants


def test_details_that_nobody_signed_are_not_kept(pair: tuple[Minted, Minted], keys: KeySet) -> None:
    token, known = pair[0].token, KnownDetails(10)
    forged = token[:-4] + (b"AAAA" if token[-4:] != b"AAAA" else b"BBBA")
    assert verify(forged, keys, METER_KEY, NOW, known=known) is TokenRefusal.SIGNATURE
    written = msgspec.json.encode(pair[0].claims.authorization_details)
    assert known.grants(written) is None
    verify(token, keys, METER_KEY, NOW, known=known)
    assert known.grants(written) is not None


def test_of_known_details_the_first_go_first() -> None:
    known = KnownDetails(2)
    for written in (b"a", b"b", b"a", b"c"):
        known.keep(written, ())
    assert [known.grants(written) for written in (b"a", b"b", b"c")] == [None, (), ()]


# Whatever JSON can say, in place of one member: signed by our own key, so that nothing but the claims is wrong.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_CLAIMS = ["iss", "aud", "client_id", "sub", "jti", "iat", "exp", "cnf"]
_MEMBERS = [field.name for field in msgspec.structs.fields(ConsentDetail)]


def _assert_read_exactly_or_refused(claims: dict[str, Any], key: TokenKey) -> None:
    signer = FileTokenSigner(key)
    header = {"typ": "at+jwt", "alg": signer.public.alg, "kid": signer.public.kid}
    token, keys, known = compact(key, header, claims), key_set_of(signer), KnownDetails(10)
    result = verify(token, keys, METER_KEY, NOW)
    for _ in range(2):  # the second time its details are known, if they are good
        assert verify(token, keys, METER_KEY, NOW, known=known) == result
    if isinstance(result, VerifiedToken):
        (detail,) = claims["authorization_details"]
        said = {name: value for name, value in detail.items() if value not in (None, [])}  # both mean: absent
        assert json.loads(msgspec.json.encode(result.claims)) == claims | {"authorization_details": [said]}


@given(claim=st.sampled_from(_CLAIMS), value=json_values)
@settings(max_examples=300, deadline=None)
def test_claim_of_any_form_is_read_exactly_or_refused(
    pair: tuple[Minted, Minted], token_keys: dict[str, TokenKey], claim: str, value: object
) -> None:
    claims = json.loads(msgspec.json.encode(pair[0].claims))
    _assert_read_exactly_or_refused(claims | {claim: value}, token_keys["ES256"])


@given(member=st.sampled_from(_MEMBERS), value=json_values)
@settings(max_examples=300, deadline=None)
def test_detail_of_any_form_is_read_exactly_or_refused(
    pair: tuple[Minted, Minted], token_keys: dict[str, TokenKey], member: str, value: object
) -> None:
    claims = json.loads(msgspec.json.encode(pair[0].claims))
    claims["authorization_details"][0][member] = value
    _assert_read_exactly_or_refused(claims, token_keys["ES256"])
