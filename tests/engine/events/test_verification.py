"""Every row of the table of bad inputs that a token alone can break (5 to 13, and 18), and what is taken."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import UnixTime
from engine.consent.states import State
from engine.events.facts import Change, ConsentFact, InitiatingEntity, ReasonCode, StreamFact, VerificationFact
from engine.events.sets import ConsentPayload, PartyPayload, StreamPayload, VerificationPayload, heartbeat_claims
from engine.events.signing import PemEventSigner, new_event_key
from engine.events.verification import (
    MAX_EVENT_BYTES,
    ErrorCode,
    Expected,
    RefusedEvent,
    UnknownKey,
    VerifiedEvent,
    verify_event,
)
from engine.tokens.jws import encode_part
from tests.support.events import (
    ATP,
    CONSENT,
    EDP,
    ISSUER,
    NOW,
    STATES,
    claims_of,
    consent_fact,
    key_set,
    members_of,
    party_fact,
    signer,
)

EXPECTED = Expected(ISSUER, EDP, frozenset({"say this"}))
KEY = ec.generate_private_key(ec.SECP256R1())
FORGER = PemEventSigner(KEY)
KEYS = key_set(signer(), FORGER)  # FORGER's key is published here: what it signs by hand is well signed
Change_ = Callable[[dict[str, Any]], object]


def verified(raw: bytes, expected: Expected = EXPECTED, now: int = NOW) -> VerifiedEvent:
    return verify_event(raw, KEYS, expected, UnixTime(now))


def refused(raw: bytes, expected: Expected = EXPECTED, now: int = NOW) -> RefusedEvent:
    with pytest.raises(RefusedEvent) as caught:
        verified(raw, expected, now)
    assert caught.value.text
    return caught.value


def good() -> dict[str, Any]:
    return members_of(claims_of(consent_fact()))


def sealed(payload: object, header: object = None) -> bytes:
    """Signed by a published key, whatever is in it."""
    head = {"typ": "secevent+jwt", "alg": "ES256", "kid": FORGER.public.kid} if header is None else header
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, payload)]
    signed = encode_part(parts[0]) + b"." + encode_part(parts[1])
    r, s = decode_dss_signature(KEY.sign(signed, ec.ECDSA(SHA256())))
    return signed + b"." + encode_part(r.to_bytes(32) + s.to_bytes(32))


def test_what_is_sealed_here_is_good_before_it_is_changed() -> None:
    assert verified(sealed(good())).jti == good()["jti"]


facts = st.builds(
    lambda change, version, at, reason, by: consent_fact(
        change, version, effective_at=UnixTime(at), reason_code=reason, initiating_entity=by, state=STATES[change]
    ),
    st.sampled_from(list(Change)),
    st.integers(1, 2**31),
    st.integers(0, 2**33),
    st.sampled_from([None, *ReasonCode]),
    st.sampled_from(list(InitiatingEntity)),
)


@given(fact=facts, receiver=st.sampled_from([ATP, EDP]), seq=st.integers(1, 2**50), data=st.data())
def test_what_was_signed_is_read_again(fact: ConsentFact, receiver: str, seq: int, data: st.DataObject) -> None:
    prev = data.draw(st.integers(0, seq - 1))
    claims = claims_of(fact, receiver=ATP if receiver == ATP else EDP, seq=seq, prev=prev)
    event = verified(signer().sign_event(claims), Expected(ISSUER, claims.aud))
    assert (event.jti, event.txn, event.issued_at) == (claims.jti, "8b1f", fact.recorded_at)
    assert (event.subject, event.seq, event.prev) == (CONSENT, seq, prev)
    assert event.change is fact.change
    assert {event.type: event.payload} == claims.events


@pytest.mark.parametrize("suspended", [True, False])
def test_parties_are_read(suspended: bool) -> None:
    event = verified(signer().sign_event(claims_of(party_fact(suspended=suspended))))
    assert event.suspends is suspended
    assert isinstance(event.payload, PartyPayload)
    assert event.payload.party_version == 3


def test_framework_events_are_read() -> None:
    event = verified(signer().sign_event(claims_of(VerificationFact("s", NOW, "say this", "prove it"))))
    assert event.payload == VerificationPayload("say this")
    assert (event.challenge, event.seq, event.last_seq) == ("prove it", 0, None)
    event = verified(signer().sign_event(claims_of(StreamFact("s", "paused", NOW))))
    assert event.payload == StreamPayload("paused")
    heartbeat = heartbeat_claims(
        stream_id="s", receiver=EDP, issuer=ISSUER, jti="j", iat=NOW, last_seq=9, checkpoint=None
    )
    assert verified(signer().sign_event(heartbeat)).last_seq == 9


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=300)
def test_no_bit_can_be_changed(position: int, bit: int) -> None:
    raw = bytearray(SIGNED)
    raw[position % len(raw)] ^= 1 << bit
    with pytest.raises(RefusedEvent):
        verified(bytes(raw))


SIGNED = signer().sign_event(claims_of(consent_fact()))


@given(st.binary(max_size=300))
def test_nothing_else_escapes(raw: bytes) -> None:
    refused(raw)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3))


@given(
    name=st.sampled_from([*good(), "ccs_last_seq", "ccs_checkpoint", "ccs_challenge"]),
    inner=st.sampled_from([None, "consent_version", "state", "effective_at", "client_id", "authorization_details"]),
    value=values,
)
def test_any_value_of_any_member_is_taken_or_refused(name: str, inner: str | None, value: object) -> None:
    members = good()
    place = members if inner is None else next(iter(members["events"].values()))
    place[name if inner is None else inner] = value
    with contextlib.suppress(RefusedEvent):
        verified(sealed(members))


# Row 5: not a JWS, bad JSON, a member twice


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"a.b",
        SIGNED + b".x",
        SIGNED.replace(b".", b"..", 1),
        b" " + SIGNED,
        SIGNED + b"\n",
        SIGNED + b"=",
        SIGNED[:-1] + bytes([SIGNED[-1] + 1]),  # the same bytes by another spelling
        b"A" * (MAX_EVENT_BYTES + 1),
        sealed(b"not json"),
        sealed([1]),
        sealed(b'{"iss":NaN}'),
        sealed(b'{"iss":"a","iss":"a"}'),
        sealed(
            json.dumps(good()).replace('"consent_version": 4', '"consent_version": 4, "consent_version": 4').encode()
        ),
        sealed(good(), b'{"typ":"secevent+jwt","typ":"secevent+jwt","alg":"ES256","kid":"k"}'),
        sealed(good(), b"null"),
        sealed({**good(), "x": json.loads("[" * 20 + "]" * 20)}),
        sealed({**good(), "x": "\ud800"}),
        sealed({**good(), "x": 2**63}),
        sealed(json.dumps(good()).replace("91807", "1e999").encode()),
        sealed(json.dumps({**good(), "x": 0}).replace('"x": 0', '"x": 1e999').encode()),
    ],
)
def test_row_5_what_is_no_set(raw: bytes) -> None:
    assert (refused(raw).err, refused(raw).is_security) == (ErrorCode.INVALID_REQUEST, False)


def test_64_kib_are_taken_and_not_a_byte_more() -> None:
    """Row 4 where nothing before has counted: a set that came by poll."""
    assert MAX_EVENT_BYTES == 64 * 1024
    room = (MAX_EVENT_BYTES - len(sealed({**good(), "x": ""}))) * 3 // 4  # of base64url
    found = {len(raw): raw for raw in (sealed({**good(), "x": "x" * n}) for n in range(room - 3, room + 4))}
    largest, above = max(n for n in found if n <= MAX_EVENT_BYTES), min(n for n in found if n > MAX_EVENT_BYTES)
    assert above - largest <= 2
    assert verified(found[largest]).jti == good()["jti"]
    assert refused(found[above]).err is ErrorCode.INVALID_REQUEST


# Row 6: another kind of JWT


@pytest.mark.parametrize("typ", [None, "JWT", "at+jwt", "token-introspection+jwt", "application/secevent+jwt", 1, ""])
def test_row_6_other_types(typ: object) -> None:
    header = {"typ": typ, "alg": "ES256", "kid": FORGER.public.kid}
    refusal = refused(sealed(good(), header if typ is not None else {"alg": "ES256", "kid": FORGER.public.kid}))
    assert (refusal.err, refusal.is_security) == (ErrorCode.INVALID_REQUEST, False)


def test_the_type_is_a_media_type_so_its_case_does_not_matter() -> None:
    assert verified(sealed(good(), {"typ": "SecEvent+JWT", "alg": "ES256", "kid": FORGER.public.kid}))


# Row 7: the algorithm is ours to say


@pytest.mark.parametrize("alg", ["none", "None", "HS256", "RS256", "PS256", "ES384", "EdDSA", None, 1])
def test_row_7_other_algorithms(alg: object) -> None:
    header = {"typ": "secevent+jwt", "alg": alg, "kid": FORGER.public.kid}
    for raw in (sealed(good(), header), sealed(good(), header).rpartition(b".")[0] + b"."):
        refusal = refused(raw)
        assert (refusal.err, refusal.is_security) == (ErrorCode.AUTHENTICATION_FAILED, True)


@pytest.mark.parametrize("more", [{"jwk": {}}, {"jku": "https://x"}, {"x5c": []}, {"crit": ["b64"]}, {"b64": False}])
def test_a_header_brings_nothing_of_its_own(more: dict[str, object]) -> None:
    header = {"typ": "secevent+jwt", "alg": "ES256", "kid": FORGER.public.kid, **more}
    assert refused(sealed(good(), header)).err is ErrorCode.INVALID_REQUEST


# Row 8: unknown kid


def test_row_8_an_unknown_key_is_named_so_that_it_can_be_fetched() -> None:
    stranger = PemEventSigner.from_pem(new_event_key())
    refusal = refused(stranger.sign_event(claims_of(consent_fact())))
    assert isinstance(refusal, UnknownKey)
    assert (refusal.err, refusal.is_security, refusal.kid) == (ErrorCode.INVALID_KEY, False, stranger.public.kid)


# Row 9: the signature


def test_row_9_a_wrong_signature() -> None:
    other = signer().sign_event(claims_of(consent_fact(version=5)))
    mixed = SIGNED.rpartition(b".")[0] + b"." + other.rpartition(b".")[2]
    stranger = {"typ": "secevent+jwt", "alg": "ES256", "kid": signer().public.kid}
    for raw in (mixed, sealed(good(), stranger), SIGNED.rpartition(b".")[0] + b".AAAA"):
        refusal = refused(raw)
        assert (refusal.err, refusal.is_security) == (ErrorCode.AUTHENTICATION_FAILED, True)


def test_the_signature_is_looked_at_before_the_claims() -> None:
    """Else a stranger could ask who we are and what we expect."""
    bad = sealed({"aud": "x"}, {"typ": "secevent+jwt", "alg": "ES256", "kid": signer().public.kid})
    assert refused(bad).err is ErrorCode.AUTHENTICATION_FAILED


# Row 10: issuer and audience


@pytest.mark.parametrize("issuer", ["https://other.example", ISSUER + "/", None, 1])
def test_row_10_another_issuer(issuer: object) -> None:
    assert refused(sealed({**good(), "iss": issuer})).err is ErrorCode.INVALID_ISSUER


@pytest.mark.parametrize("audience", ["edp-8", [], ["edp-8"], [EDP, "edp-8"], None, EDP + " "])
def test_row_10_another_audience_is_a_security_event(audience: object) -> None:
    refusal = refused(sealed({**good(), "aud": audience}))
    assert (refusal.err, refusal.is_security) == (ErrorCode.INVALID_AUDIENCE, True)


def test_a_list_of_one_names_us_too() -> None:
    assert verified(sealed({**good(), "aud": [EDP]}))


# Row 11: sub, exp, sub_id, events


def _events(members: dict[str, Any]) -> dict[str, Any]:
    events: dict[str, Any] = members["events"]
    return events


def _payload(members: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = next(iter(_events(members).values()))
    return payload


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(sub="x"),
        lambda m: m.update(exp=NOW + 60),
        lambda m: m.update(exp=None),
        lambda m: m.pop("sub_id"),
        lambda m: m.update(sub_id=CONSENT),
        lambda m: m["sub_id"].update(format="email"),
        lambda m: m["sub_id"].pop("format"),
        lambda m: m["sub_id"].update(id=""),
        lambda m: m["sub_id"].update(iss="x"),
        lambda m: m["sub_id"].update(id=CONSENT.upper()),
        lambda m: m.pop("events"),
        lambda m: m.update(events={}),
        lambda m: m["events"].update(other={}),
        lambda m: m.update(events=list(m["events"])),
        lambda m: m["events"].update({next(iter(m["events"])): None}),
        lambda m: m.pop("iat"),
        lambda m: m.update(iat="1"),
        lambda m: m.update(iat=True),
        lambda m: m.update(iat=NOW + 61),
        lambda m: m.update(iat=-1),
        lambda m: m.pop("jti"),
        lambda m: m.update(jti=""),
        lambda m: m.update(jti="x" * 256),
        lambda m: m.update(txn=1),
        lambda m: m.pop("ccs_seq"),
        lambda m: m.pop("ccs_prev"),
        lambda m: m.update(ccs_seq=0),
        lambda m: m.update(ccs_prev=m["ccs_seq"]),
        lambda m: m.update(ccs_prev=-1),
        lambda m: m.update(ccs_seq=1.0, ccs_prev=0),
        lambda m: _payload(m).pop("consent_version"),
        lambda m: _payload(m).update(consent_version=0),
        lambda m: _payload(m).update(consent_version="4"),
        lambda m: _payload(m).pop("state"),
        lambda m: _payload(m).update(state="active"),
        lambda m: _payload(m).update(state="REVOKED"),
        lambda m: _payload(m).update(effective_at=1.5),
        lambda m: _payload(m).pop("event_timestamp"),
        lambda m: _payload(m).pop("client_id"),
        lambda m: _payload(m).update(expires_at="later"),
        lambda m: _payload(m).update(authorization_details={}),
        lambda m: _payload(m).update(reason_code="because"),
    ],
)
def test_row_11_and_payloads(change: Change_) -> None:
    members = good()
    change(members)
    refusal = refused(sealed(members))
    assert (refusal.err, refusal.is_security) == (ErrorCode.INVALID_REQUEST, False)


@pytest.mark.parametrize("change", Change)
def test_each_type_leads_to_its_own_states(change: Change) -> None:
    members = members_of(claims_of(consent_fact(change)))
    for state in State:
        _payload(members).update(state=state.name.lower())
        fits = state is STATES[change] or (change is Change.REVOKED and state is State.SUPERSEDED)
        if fits:
            assert verified(sealed(members)).change is change
        else:
            assert refused(sealed(members)).err is ErrorCode.INVALID_REQUEST


def test_a_party_event_is_about_its_own_subject() -> None:
    members = members_of(claims_of(party_fact()))
    members["sub_id"]["id"] = "atp-1"
    assert refused(sealed(members)).err is ErrorCode.INVALID_REQUEST


def test_clocks_may_differ_a_little_and_age_does_not_matter() -> None:
    assert verified(sealed({**good(), "iat": NOW + 60}))
    assert verified(SIGNED, now=NOW + 30 * 86_400)


def test_the_first_step_that_fails_is_told() -> None:
    """One defect after the other is mended, from the last step's backwards to none: each time another one shows."""
    kid, stranger = FORGER.public.kid, signer().public.kid
    head, bad = {"typ": "secevent+jwt", "alg": "ES256", "kid": kid}, {**good(), "iat": NOW + 61}
    steps = [
        ({**head, "typ": "JWT", "alg": "none", "kid": "nobody's"}, {"iss": "x", "aud": "x", "sub": "x"}),
        ({**head, "alg": "none", "kid": "nobody's"}, {"iss": "x", "aud": "x", "sub": "x"}),
        ({**head, "kid": "nobody's"}, {"iss": "x", "aud": "x", "sub": "x"}),
        ({**head, "kid": stranger}, {"iss": "x", "aud": "x", "sub": "x"}),
        (head, {"iss": "x", "aud": "x", "sub": "x"}),
        (head, {"aud": "x", "sub": "x"}),
        (head, {"sub": "x"}),
        (head, {}),
    ]
    told = [refused(sealed({**bad, **members}, header)) for header, members in steps]
    assert [(one.err.value, one.text) for one in told] == [
        ("invalid_request", "typ must be secevent+jwt"),
        ("authentication_failed", "alg must be ES256"),
        ("invalid_key", "no event key has this kid"),
        ("authentication_failed", "the signature did not verify"),
        ("invalid_issuer", "this issuer's events are not taken here"),
        ("invalid_audience", "the event is another receiver's"),
        ("invalid_request", "an event has neither sub nor exp"),
        ("invalid_request", "the event is of a time to come"),
    ]


def test_the_refusal_names_the_place_and_not_the_value() -> None:
    members = good()
    _payload(members).update(consent_version="a secret")
    assert refused(sealed(members)).text.endswith("(at consent_version)")


# Row 12: an unknown type


def test_row_12_an_unknown_type_counts() -> None:
    event = verified(sealed({**good(), "events": {"https://x.example/new": {"a": [1]}}}))
    assert (event.payload, event.change, event.type) == (None, None, "https://x.example/new")
    assert (event.seq, event.prev) == (91_822, 91_807)


def test_an_unknown_type_may_have_no_place() -> None:
    members = {**good(), "events": {"https://x.example/new": {}}}
    del members["ccs_seq"], members["ccs_prev"]
    assert verified(sealed(members)).seq == 0


# Row 13: unknown members


def test_row_13_unknown_members_are_ignored() -> None:
    members = good()
    plain = verified(sealed(members))
    members.update(toe=1, x={"y": [None, 1.5]}, nbf="?")
    _payload(members).update(more={"z": 1}, meter_points="?")
    assert verified(sealed(members)) == plain
    assert isinstance(plain.payload, ConsentPayload)


# Row 18: the state of a verification


@pytest.mark.parametrize("state", ["another", "", "Say this"])
def test_row_18_another_state(state: str) -> None:
    refusal = refused(signer().sign_event(claims_of(VerificationFact("s", NOW, state))))
    assert (refusal.err, refusal.is_security) == (ErrorCode.INVALID_STATE, False)


def test_a_verification_without_a_state_may_come_at_any_time() -> None:
    assert verified(signer().sign_event(claims_of(VerificationFact("s", NOW))), Expected(ISSUER, EDP))


def test_the_bytes_of_a_signed_event_stay_readable() -> None:
    """Kept bytes are sent again for days: what was signed once must be read by every later version."""
    header = {"typ": "secevent+jwt", "alg": "ES256", "kid": FORGER.public.kid}
    payload = (
        b'{"iss":"https://ccs.example","aud":"edp-7","iat":1795341599,"jti":"c1.x",'
        b'"sub_id":{"format":"opaque","id":"7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"},'
        b'"events":{"https://schemas.ccs.example/secevent/consent/event-type/consent-revoked":{"consent_version":4,'
        b'"state":"revoked","effective_at":1795341599,"event_timestamp":1795341599,"client_id":"atp-42"}},'
        b'"txn":"8b1f","ccs_seq":91822,"ccs_prev":91807}'
    )
    claims = msgspec.structs.replace(claims_of(consent_fact()), jti="c1.x")
    assert msgspec.json.encode(claims) == payload
    assert verified(sealed(payload, header)).seq == 91_822
