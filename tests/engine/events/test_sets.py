"""What each receiver is told, member by member, and what it is never told."""

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import UnixTime
from engine.consent.records import ClientId, Role
from engine.consent.states import State
from engine.events.facts import Change, ConsentFact, InitiatingEntity, ReasonCode, StreamFact, VerificationFact
from engine.events.sets import (
    CONSENT_TYPES,
    SUPPORTED,
    VERIFICATION,
    CheckpointMember,
    NotForReceiver,
    drawn_jti,
    ends_or_narrows,
    event_claims,
    event_jti,
    heartbeat_claims,
)
from tests.support.events import ATP, CONSENT, DETAIL, EDP, ISSUER, NOW, claims_of, consent_fact, members_of, party_fact

FOR_ATP_ONLY = {"initiating_entity", "reason_code", "dispute_ref", "respond_by"}
REVOKED = CONSENT_TYPES + "consent-revoked"


def test_a_revocation_as_an_edp_gets_it() -> None:
    """The example of the profile, member by member; the `jti` is a vector."""
    fact = consent_fact()
    jti = event_jti(fact, ISSUER, ClientId("https://edp-7.example"))
    assert jti == "c1.J6hLDchiQ7H6p575snejma8I2hWCMNhQAY6xaYR9pFw"
    assert members_of(claims_of(fact)) == {
        "iss": "https://ccs.example",
        "aud": "edp-7",
        "iat": 1795341599,
        "jti": event_jti(fact, ISSUER, EDP),
        "txn": "8b1f",
        "ccs_seq": 91822,
        "ccs_prev": 91807,
        "sub_id": {"format": "opaque", "id": CONSENT},
        "events": {
            REVOKED: {
                "consent_version": 4,
                "state": "revoked",
                "effective_at": 1795341599,
                "event_timestamp": 1795341599,
                "client_id": "atp-42",
            }
        },
    }


def test_the_vector_has_the_length_that_the_profile_names() -> None:
    parts = ("ccs-set-v1", ISSUER, "https://edp-7.example", REVOKED, CONSENT, "4")
    assert len("\n".join(parts).encode()) == 163
    assert hashlib.sha256("\n".join(parts).encode()).digest()[0] == 0x27  # `J6hL` of the vector


@pytest.mark.parametrize("change", Change)
def test_reasons_go_to_the_atp_alone(change: Change) -> None:
    fact = consent_fact(change)
    to_edp, to_atp = (members_of(claims_of(fact, receiver=who)) for who in (EDP, ATP))
    ((uri, for_edp),), ((same, for_atp),) = to_edp["events"].items(), to_atp["events"].items()
    assert uri == same == CONSENT_TYPES + "consent-" + change.value
    assert not FOR_ATP_ONLY & for_edp.keys()
    assert "case-1" not in json.dumps(to_edp)
    assert for_atp["initiating_entity"] == "user"
    assert ("reason_code" in for_atp) == (change not in {Change.GRANTED, Change.RENEWED})
    assert ("dispute_ref" in for_atp) == ("respond_by" in for_atp) == (change is Change.DISPUTED)
    assert ("expires_at" in for_edp) == (change in {Change.GRANTED, Change.RENEWED})
    assert ("authorization_details" in for_edp) == (change in {Change.GRANTED, Change.RENEWED, Change.AMENDED})
    assert {name: value for name, value in for_atp.items() if name not in FOR_ATP_ONLY} == for_edp


def test_a_dispute_never_says_who() -> None:
    fact = consent_fact(Change.DISPUTED, initiating_entity=InitiatingEntity.ADMIN, reason_code=ReasonCode.DISPUTE)
    (payload,) = members_of(claims_of(fact, receiver=ATP))["events"].values()
    assert payload["initiating_entity"] == "user"
    assert payload["state"] == "terminated_by_dispute"


def test_what_supersedes_says_so_by_the_state() -> None:
    (payload,) = members_of(claims_of(consent_fact(state=State.SUPERSEDED)))["events"].values()
    assert payload["state"] == "superseded"


@given(extra=st.dictionaries(st.sampled_from(["meter_points", "purpose", "atp_reference", "x"]), st.text(), min_size=1))
def test_details_are_cut_to_what_is_named(extra: dict[str, str]) -> None:
    fact = consent_fact(Change.GRANTED, authorization_details=({**DETAIL, **extra},))
    for receiver in (EDP, ATP):
        (payload,) = members_of(claims_of(fact, receiver=receiver))["events"].values()
        assert payload["authorization_details"] == [DETAIL]


@pytest.mark.parametrize("suspended", [True, False])
def test_a_party_is_told_with_its_version(suspended: bool) -> None:
    fact = party_fact(suspended=suspended)
    members = members_of(claims_of(fact))
    uri = CONSENT_TYPES + ("party-suspended" if suspended else "party-restored")
    payload = {"party_version": 3, "effective_at": NOW - 1, "event_timestamp": NOW - 1, "client_id": ATP}
    assert members["events"] == {uri: payload}
    assert members["sub_id"] == {"format": "opaque", "id": ATP}
    wanted = hashlib.sha256("\n".join(("ccs-set-v1", ISSUER, EDP, uri, ATP, "3")).encode()).digest()
    assert members["jti"] == "c1." + base64.urlsafe_b64encode(wanted).decode().rstrip("=")


def test_each_receiver_type_and_version_has_its_own_id() -> None:
    facts = [consent_fact(change, version) for change in Change for version in (1, 2)]
    ids = {event_jti(fact, issuer, who) for fact in facts for who in (ATP, EDP) for issuer in (ISSUER, "https://b")}
    assert len(ids) == len(Change) * 2 * 2 * 2


@pytest.mark.parametrize(
    ("fact", "receiver", "role"),
    [
        (consent_fact(), "edp-8", Role.EDP),
        (consent_fact(), "atp-1", Role.ATP),
        (consent_fact(), EDP, Role.ATP),  # an EDP's name in another role opens nothing
        (consent_fact(), ATP, Role.EDP),
        (consent_fact(), EDP, Role.NODE),
        (party_fact(), "atp-1", Role.ATP),
        (party_fact(), "node-1", Role.NODE),
        (StreamFact("s", "paused", NOW), "op", Role.OPERATOR),
    ],
)
def test_others_are_told_nothing(fact: ConsentFact, receiver: str, role: Role) -> None:
    with pytest.raises(NotForReceiver):
        event_claims(fact, receiver=ClientId(receiver), role=role, issuer=ISSUER, jti="j", seq=1)


def test_a_party_is_told_to_every_edp_and_its_own_atp() -> None:
    for receiver, role in ((ClientId("edp-99"), Role.EDP), (ATP, Role.ATP)):
        assert event_claims(party_fact(), receiver=receiver, role=role, issuer=ISSUER, jti="j", seq=1)


def test_an_event_that_is_signed_anew_says_the_same() -> None:
    """After a restore a week of them is signed again under the ids they had: receivers compare what they say."""
    for fact, at in (
        (consent_fact(), consent_fact().recorded_at),
        (party_fact(), party_fact().recorded_at),
        (VerificationFact("s", UnixTime(7)), 7),
        (StreamFact("s", "paused", UnixTime(8)), 8),
    ):
        assert claims_of(fact) == claims_of(fact)
        assert claims_of(fact).iat == at


def test_the_first_event_names_no_one_before_it() -> None:
    assert members_of(claims_of(consent_fact(), seq=5, prev=0))["ccs_prev"] == 0


def test_framework_events_have_no_place() -> None:
    verification = members_of(claims_of(VerificationFact("stream-1", NOW, state="say this", challenge="prove it")))
    assert verification["events"] == {VERIFICATION: {"state": "say this"}}
    assert verification["sub_id"] == {"format": "opaque", "id": "stream-1"}
    assert verification["ccs_challenge"] == "prove it"
    updated = members_of(claims_of(StreamFact("stream-1", "paused", NOW, "you were slow")))
    assert list(updated["events"].values()) == [{"status": "paused", "reason": "you were slow"}]
    for members in (verification, updated):
        assert not {"ccs_seq", "ccs_prev", "ccs_last_seq"} & members.keys()
    unasked = members_of(claims_of(VerificationFact("stream-1", NOW)))
    assert unasked["events"] == {VERIFICATION: {}}


def test_a_heartbeat_names_the_newest_event_and_the_checkpoint() -> None:
    checkpoint = CheckpointMember("inc", 17, "aGFzaA", "kid", "c2ln")
    claims = heartbeat_claims(
        stream_id="s", receiver=EDP, issuer=ISSUER, jti="j", iat=NOW, last_seq=0, checkpoint=checkpoint
    )
    members = members_of(claims)
    assert members["ccs_last_seq"] == 0
    assert members["ccs_checkpoint"] == {
        "incarnation": "inc", "seq": 17, "hash": "aGFzaA", "kid": "kid", "signature": "c2ln",
    }  # fmt: skip
    assert members["events"] == {VERIFICATION: {}}


def test_no_event_has_sub_or_exp() -> None:
    facts = [*map(consent_fact, Change), party_fact(), VerificationFact("s", NOW), StreamFact("s", "enabled", NOW)]
    for fact in facts:
        assert not {"sub", "exp"} & members_of(claims_of(fact)).keys()


def test_which_events_go_first() -> None:
    assert [change for change in Change if ends_or_narrows(consent_fact(change))] == [
        Change.AMENDED, Change.REVOKED, Change.DISPUTED, Change.EXPIRED, Change.CONSUMED,
    ]  # fmt: skip
    assert ends_or_narrows(party_fact())
    assert ends_or_narrows(party_fact(suspended=False))
    assert not ends_or_narrows(VerificationFact("s", UnixTime(0)))
    assert not ends_or_narrows(StreamFact("s", "paused", UnixTime(0)))


def test_what_may_be_asked_for() -> None:
    assert len(SUPPORTED) == 9
    assert VERIFICATION not in SUPPORTED


def test_a_drawn_id_is_long_enough() -> None:
    assert drawn_jti(bytes(16)) == "c2.AAAAAAAAAAAAAAAAAAAAAA"
    with pytest.raises(ValueError, match="16"):
        drawn_jti(bytes(15))
