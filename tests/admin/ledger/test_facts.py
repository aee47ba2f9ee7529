"""What is told of each kind of event: to whom it may matter, why, and never about whom."""

from typing import Any, cast

import msgspec
import pytest

from admin.ledger.events import (
    Act,
    ConsentRevoked,
    ConsentWindowCut,
    Initiator,
    ParticipantReinstated,
    ParticipantSuspended,
    Route,
    decode,
    encode,
)
from admin.ledger.facts import fact_of
from engine.clock import UnixTime
from engine.consent.records import ClientId, Role
from engine.consent.states import State
from engine.events.facts import Change, ConsentFact, InitiatingEntity, PartyFact, ReasonCode
from engine.events.sets import event_claims
from tests.support.stored_forms import AT, CONSENT, EARLIER, EVENTS, ID, ORGANISATION, PARTICIPANT, TERMS, ended

LATER = UnixTime(AT + 7)
ADMIN, USER, SYSTEM = InitiatingEntity.ADMIN, InitiatingEntity.USER, InitiatingEntity.SYSTEM
TOLD: dict[str, tuple[Change, State, int, InitiatingEntity, ReasonCode | None]] = {
    "consent.granted": (Change.GRANTED, State.ACTIVE, CONSENT.granted_at, ADMIN, None),
    "consent.renewed": (Change.RENEWED, State.ACTIVE, LATER, ADMIN, None),
    "consent.window_cut": (Change.AMENDED, State.ACTIVE, LATER, ADMIN, ReasonCode.MOVED_OUT),
    "consent.consumed": (Change.CONSUMED, State.CONSUMED, LATER, ADMIN, None),
    "consent.expired": (Change.EXPIRED, State.EXPIRED, CONSENT.expires_at, ADMIN, ReasonCode.TERM_ENDED),
    "consent.revoked": (Change.REVOKED, State.REVOKED, 1_795_300_000, ADMIN, ReasonCode.ADMIN),
    "consent.disputed": (Change.DISPUTED, State.TERMINATED_BY_DISPUTE, LATER, USER, ReasonCode.DISPUTE),
    "consent.superseded": (Change.REVOKED, State.SUPERSEDED, LATER, ADMIN, ReasonCode.SUPERSEDED),
}
WITH_DETAILS = {"consent.granted", "consent.renewed", "consent.window_cut"}


@pytest.mark.parametrize("tag", EVENTS)
def test_every_kind_of_event_is_told_or_not(tag: str) -> None:
    fact = fact_of(EVENTS[tag], 9, LATER)
    if tag not in TOLD:
        assert fact is None
        return
    assert isinstance(fact, ConsentFact)
    assert (fact.change, fact.state, fact.effective_at, fact.initiating_entity, fact.reason_code) == TOLD[tag]
    assert (fact.consent_id, fact.consent_version, fact.recorded_at) == (ID, CONSENT.consent_version, LATER)
    assert (fact.client_id, fact.edps) == (CONSENT.atp, CONSENT.edps)
    assert bool(fact.authorization_details) == (tag in WITH_DETAILS)
    assert fact.expires_at == (CONSENT.expires_at if tag in WITH_DETAILS - {"consent.window_cut"} else None)
    assert fact.dispute_ref == ("D-17" if tag == "consent.disputed" else None)
    assert fact.respond_by == (1_796_662_800 if tag == "consent.disputed" else None)


def test_the_details_are_a_token_s_without_meter_points_and_purpose() -> None:
    fact = fact_of(EVENTS["consent.granted"], 1, AT)
    assert isinstance(fact, ConsentFact)
    assert fact.authorization_details == (
        {
            "type": "https://ccs.example/rar/energy-consent/v1",
            "consent_id": ID,
            "dataset_id": "hh-electricity-import",
            "access_mode": "enduring",
            "consent_expires_at": "2027-05-11T01:46:40Z",
            "data_from": "2025-11-22T00:00:00Z",
            "data_to": "2027-01-15T08:00:00Z",
            "actions": ["read"],
            "purpose_code": "advice",
        },
    )


@pytest.mark.parametrize("tag", TOLD)
def test_no_fact_holds_words_digests_or_references(tag: str) -> None:
    """Of meter points not even the digests, of the ATP's own not even its reference."""
    raw = msgspec.msgpack.encode(fact_of(EVENTS[tag], 1, AT))
    words = (b"Compare your tariff", b"c-4471", b"atp-decl-1", b"share-77", b"mpan", b"lead-2", b"case-8")
    for marked in (*words, *CONSENT.meter_digests):
        assert marked not in raw


@pytest.mark.parametrize(
    ("initiator", "actor", "reason", "entity", "code"),
    [
        (Initiator.CONSUMER, "account-1", "withdrawn", USER, ReasonCode.CONSUMER_WITHDREW),
        (Initiator.CONSUMER, "account-1", "moved_out", USER, ReasonCode.MOVED_OUT),
        (Initiator.ATP, "atp-1", "account_closed", SYSTEM, ReasonCode.ATP_WITHDREW),
        (Initiator.ATP, "atp-1", "moved_out", SYSTEM, ReasonCode.MOVED_OUT),
        (Initiator.OPERATOR, "operator-1", "security", ADMIN, ReasonCode.ADMIN),
        (Initiator.OPERATOR, "operator-1", "moved_out", ADMIN, ReasonCode.MOVED_OUT),
        (Initiator.SYSTEM, "atp-1", "recovery", SYSTEM, ReasonCode.ATP_WITHDREW),
        (Initiator.SYSTEM, "edp-1", "recovery", SYSTEM, ReasonCode.ADMIN),
        (Initiator.SYSTEM, "system", None, SYSTEM, ReasonCode.ADMIN),
    ],
)
def test_why_a_consent_was_taken_back(
    initiator: Initiator, actor: str, reason: str | None, entity: InitiatingEntity, code: ReasonCode
) -> None:
    act = Act(initiator, actor, Route.API, AT, reason=reason)
    fact = fact_of(ConsentRevoked(ID, ended(State.REVOKED), TERMS, act, AT), 4, AT)
    assert isinstance(fact, ConsentFact)
    assert (fact.initiating_entity, fact.reason_code) == (entity, code)


@pytest.mark.parametrize(
    ("initiator", "code"), [(Initiator.CONSUMER, None), (Initiator.ATP, None), (Initiator.OPERATOR, ReasonCode.ADMIN)]
)
def test_a_window_that_begins_later_has_no_code_of_its_own(initiator: Initiator, code: ReasonCode | None) -> None:
    act = Act(initiator, "somebody", Route.API, AT)
    cut = ConsentWindowCut(ID, CONSENT, TERMS, act, UnixTime(CONSENT.data_from - 1), CONSENT.data_to)
    fact = fact_of(cut, 4, AT)
    assert isinstance(fact, ConsentFact)
    assert fact.reason_code == code


@pytest.mark.parametrize("initiator", Initiator)
def test_a_dispute_never_tells_whose_it_is(initiator: Initiator) -> None:
    event = EVENTS["consent.disputed"]
    raised = msgspec.structs.replace(event, act=Act(initiator, "account-2", Route.PORTAL, AT))
    fact = fact_of(raised, 4, AT)
    assert isinstance(fact, ConsentFact)
    assert fact.initiating_entity is USER
    assert b"account-2" not in msgspec.msgpack.encode(fact)


@pytest.mark.parametrize("event", [EVENTS["consent.disputed"], EARLIER["consent.disputed"]], ids=["now", "earlier"])
def test_by_when_a_dispute_is_answered_is_told_to_its_atp_alone(event: Any) -> None:
    """A dispute from before that was decided is told as it was told then, byte for byte."""
    fact = fact_of(decode(encode(event)), 4, AT)
    assert isinstance(fact, ConsentFact)
    atp, edp = (payload_of(fact, *who) for who in ((CONSENT.atp, Role.ATP), (CONSENT.edps[0], Role.EDP)))
    told = {"dispute_ref": "D-17", "initiating_entity": "user", "reason_code": "dispute"}
    assert atp == edp | told | ({} if event.respond_by is None else {"respond_by": 1_796_662_800})
    assert edp.keys() == {"consent_version", "state", "effective_at", "event_timestamp", "client_id"}


def payload_of(fact: ConsentFact, receiver: ClientId, role: Role) -> dict[str, Any]:
    claims = event_claims(fact, receiver=receiver, role=role, issuer="https://ccs.example", jti="j", seq=1, prev=0)
    (payload,) = msgspec.json.decode(msgspec.json.encode(claims))["events"].values()
    return cast("dict[str, Any]", payload)


@pytest.mark.parametrize(("kind", "suspended"), [(ParticipantSuspended, True), (ParticipantReinstated, False)])
def test_only_an_atp_s_suspension_is_told(kind: Any, suspended: bool) -> None:
    changed = msgspec.structs.replace(PARTICIPANT, suspended=suspended)
    act = Act(Initiator.OPERATOR, "operator-1", Route.API, AT)
    assert fact_of(kind(changed, ORGANISATION, act), 3, AT) is None
    atp = msgspec.structs.replace(changed, client_id=ClientId("atp-1"), role=Role.ATP)
    assert fact_of(kind(atp, ORGANISATION, act), 3, LATER) == PartyFact(ClientId("atp-1"), 3, suspended, LATER)
