"""Deliveries as the outbox has them, for tests: facts about made-up consents."""

from typing import Final

from engine.clock import UnixTime
from engine.consent.records import ClientId, ConsentId, Role
from engine.consent.states import State
from engine.events.facts import Change, ConsentFact, Fact, InitiatingEntity, PartyFact, ReasonCode
from engine.events.sets import drawn_jti, event_jti
from engine.pusher.service import Delivery, Lane

ISSUER: Final = "https://ccs.example"
AT: Final = 1_795_341_600
ATP: Final = ClientId("atp-1")


def consent_id(number: int) -> ConsentId:
    return ConsentId(f"7f3c1b1e-5a0e-4a55-9a53-{number:012x}")


def ended(consent: int, receiver: str, version: int = 2) -> ConsentFact:
    """A consumer has withdrawn consent number so-and-so."""
    return _fact(Change.REVOKED, State.REVOKED, consent, receiver, version, ReasonCode.CONSUMER_WITHDREW)


def granted(consent: int, receiver: str, version: int = 1) -> ConsentFact:
    return _fact(Change.GRANTED, State.ACTIVE, consent, receiver, version, None)


def _fact(
    change: Change, state: State, consent: int, receiver: str, version: int, reason: ReasonCode | None
) -> ConsentFact:
    return ConsentFact(
        change=change,
        consent_id=consent_id(consent),
        consent_version=version,
        state=state,
        effective_at=UnixTime(AT),
        recorded_at=UnixTime(AT),
        client_id=ATP,
        edps=(ClientId(receiver),),
        initiating_entity=InitiatingEntity.USER,
        reason_code=reason,
    )


def delivery(
    number: int, fact: Fact | None = None, *, to: str = "edp-1", lane: Lane = Lane.ENDS, prev: int = 0, at: float = AT
) -> Delivery:
    """Number so-and-so of the outbox; the end of a consent of that number where no fact is given."""
    told = fact if fact is not None else ended(number, to)
    framework = not isinstance(told, ConsentFact | PartyFact)
    receiver = ClientId(to)
    return Delivery(
        number=number,
        client_id=receiver,
        role=Role.ATP if to.startswith("atp") else Role.EDP,
        lane=lane,
        seq=0 if framework else number + 10,
        prev=prev,
        jti=drawn_jti(number.to_bytes(16))
        if not isinstance(told, ConsentFact | PartyFact)
        else event_jti(told, ISSUER, receiver),
        txn=f"txn-{number}",
        fact=told,
        committed_at=at,
    )
