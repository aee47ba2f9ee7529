"""The ledger's events: what is written down, for ever, about consents, participants, tokens and the service itself.

THE LAW: stored formats only grow. Every struct here is stored as an array, so fields are never reordered, renamed
in meaning or removed; a new field goes to the end of its struct and has a default. Where that is not enough, make
a new event with a new tag; a retired tag stays in the union, because old ledgers hold it. No event inherits fields
from another (a base could never grow). `tests/vectors/records` pins the bytes of each form ever written.

A consent event carries the consent *after* it, whole: the newest event of a subject is the subject. Bodies are
public inside the house; names, addresses and meter points stand only in `ConsentPersonal`, which is encrypted.
"""

import enum
from typing import Final, Literal

import msgspec

from admin.ledger.store import Append, FeedRecord, Personal, StoredEvent
from engine.clock import UnixTime
from engine.consent.records import (
    LIVE_KEY,
    POLICY_KEY,
    ClientId,
    ConsentId,
    ConsentRecord,
    DoubtRecord,
    LiveRecord,
    ParticipantRecord,
    PolicyRecord,
    RestoreRecord,
    Role,
    Thumbprint,
    TokenRevocation,
    consent_key,
)
from engine.consent.states import State
from engine.errors import Fault, Kind
from engine.feed.entries import EntryKind
from engine.pusher.streams import StreamRecord

KEYS_KEY: Final = b"keys"


class Initiator(enum.StrEnum):
    """On whose behalf something was done."""

    CONSUMER = "consumer"
    ATP = "atp"
    OPERATOR = "operator"
    SYSTEM = "system"
    EDP = "edp"  # of its own streams; never of a consent


class Route(enum.StrEnum):
    """By which way it came in (CMS-31)."""

    ATP = "atp"  # a journey that began at the third party
    PORTAL = "portal"  # the consumer's own pages
    CONSOLE = "console"  # an operator's page
    API = "api"  # a machine's call
    SYSTEM = "system"  # nobody's: the clock's, or the seed's


class Origin(enum.StrEnum):
    """Where the consent was given (CMS-32)."""

    CCS = "ccs"
    IMPORTED = "imported"


class Act(msgspec.Struct, frozen=True, array_like=True):
    """Who did it, when, by which way, under which words and why (CMS-31). No personal data."""

    initiator: Initiator
    actor: str  # client_id of the machine, or the pseudonymous account, that made the call
    route: Route
    at: UnixTime
    wording: str = ""  # version of the words the person saw; "" = nobody was shown any
    reason: str | None = None  # a code of a published list, never free text


class Terms(msgspec.Struct, frozen=True, array_like=True):
    """What was agreed and only the ledger keeps: engines need none of it."""

    schema_version: str  # the type URI that the request was made under (CMS-03)
    purpose: str  # the ATP's words
    atp_declaration: str  # id of the declaration it accepted (CMS-28)
    atp_reference: str | None = None
    locations: tuple[str, ...] = ()
    lawful_basis: str = "consent"
    origin: Origin = Origin.CCS


class LeadOccupant(msgspec.Struct, frozen=True, array_like=True):
    """The two confirmations of somebody who consents for all adults of a home (OCC-03)."""

    authority_confirmed_at: UnixTime
    agreement_confirmed_at: UnixTime
    wording: str


class Organisation(msgspec.Struct, frozen=True, array_like=True):
    """Who stands behind a client."""

    name: str
    locations: tuple[str, ...] = ()  # https URIs of an EDP's data API


class ConsentRequested(msgspec.Struct, frozen=True, array_like=True, tag="consent.requested"):
    """An ATP asked; nothing is granted yet."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act


class ConsentGranted(msgspec.Struct, frozen=True, array_like=True, tag="consent.granted"):
    """The consumer said yes. lead_occupant: only where one person consents for several."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act
    lead_occupant: LeadOccupant | None = None


class ConsentDeclined(msgspec.Struct, frozen=True, array_like=True, tag="consent.declined"):
    """The consumer said no."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act


class ConsentAbandoned(msgspec.Struct, frozen=True, array_like=True, tag="consent.abandoned"):
    """The consumer never answered."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act


class ConsentRenewed(msgspec.Struct, frozen=True, array_like=True, tag="consent.renewed"):
    """The same scope for longer (CMS-24)."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act
    previous_expires_at: UnixTime
    address_confirmed_at: UnixTime
    evidence: str = ""  # an ATP's own reference to what the consumer did with it; never free text


class ConsentWindowCut(msgspec.Struct, frozen=True, array_like=True, tag="consent.window_cut"):
    """The occupancy turned out shorter (CMS-07)."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act
    previous_from: UnixTime
    previous_to: UnixTime | None


class ConsentConsumed(msgspec.Struct, frozen=True, array_like=True, tag="consent.consumed"):
    """A one-off was used (CMS-05)."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act
    edp: ClientId
    share_id: str


class ConsentExpired(msgspec.Struct, frozen=True, array_like=True, tag="consent.expired"):
    """Its time was over (CMS-25)."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act


class ConsentRevoked(msgspec.Struct, frozen=True, array_like=True, tag="consent.revoked"):
    """Taken back, or found to be no longer valid (CMS-23): then `act.reason` and `effective_from` say since when."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act
    effective_from: UnixTime  # earlier than the act when somebody had moved out before
    evidence: str = ""  # an ATP's own reference to what happened; never free text


class ConsentDisputed(msgspec.Struct, frozen=True, array_like=True, tag="consent.disputed"):
    """Ended at once because somebody disputes it. case_id: the dispute's own reference.

    respond_by: until when its ATP may answer, as it was promised then; None in events from before that was decided.
    """

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act
    case_id: str
    respond_by: UnixTime | None = None


class ConsentSuperseded(msgspec.Struct, frozen=True, array_like=True, tag="consent.superseded"):
    """Replaced by another consent."""

    consent_id: ConsentId
    consent: ConsentRecord
    terms: Terms
    act: Act
    successor: ConsentId


class ParticipantRegistered(msgspec.Struct, frozen=True, array_like=True, tag="participant.registered"):
    """A client of an organisation may speak to the service."""

    participant: ParticipantRecord
    organisation: Organisation
    act: Act


class ParticipantUpdated(msgspec.Struct, frozen=True, array_like=True, tag="participant.updated"):
    """Data sets, limits or the form of its answers changed."""

    participant: ParticipantRecord
    organisation: Organisation
    act: Act


class ParticipantSuspended(msgspec.Struct, frozen=True, array_like=True, tag="participant.suspended"):
    """Nothing it asks is answered, no token of it is good."""

    participant: ParticipantRecord
    organisation: Organisation
    act: Act


class ParticipantReinstated(msgspec.Struct, frozen=True, array_like=True, tag="participant.reinstated"):
    """The suspension is over."""

    participant: ParticipantRecord
    organisation: Organisation
    act: Act


class FallbackSuspended(msgspec.Struct, frozen=True, array_like=True, tag="participant.fallback_suspended"):
    """An EDP has not been told for a day what has ended: its right to fall back rests. oldest_at: of that event."""

    participant: ParticipantRecord
    organisation: Organisation
    act: Act
    oldest_at: UnixTime


class FallbackRestored(msgspec.Struct, frozen=True, array_like=True, tag="participant.fallback_restored"):
    """It has caught up with its events, and may fall back again. suspended_at: since when it could not."""

    participant: ParticipantRecord
    organisation: Organisation
    act: Act
    suspended_at: UnixTime


class CertificatesReplaced(msgspec.Struct, frozen=True, array_like=True, tag="participant.certificates_replaced"):
    """Other transport certificates stand for the client from now on."""

    participant: ParticipantRecord
    organisation: Organisation
    act: Act


class CertificateBound(msgspec.Struct, frozen=True, array_like=True, tag="certificate.bound"):
    """From now on this certificate stands for this client and no other."""

    thumbprint: Thumbprint
    client_id: ClientId
    act: Act


class CertificateReleased(msgspec.Struct, frozen=True, array_like=True, tag="certificate.released"):
    """The certificate stands for nobody any more. client_id: whose it was."""

    thumbprint: Thumbprint
    client_id: ClientId
    act: Act


class TokenRevoked(msgspec.Struct, frozen=True, array_like=True, tag="token.revoked"):
    """One token ended early; the consents behind it stay. key: first 16 bytes of SHA-256 over its `jti`."""

    key: bytes
    revocation: TokenRevocation
    client_id: ClientId
    act: Act


class PolicyChanged(msgspec.Struct, frozen=True, array_like=True, tag="policy.changed"):
    """Other policy values hold from now on."""

    policy: PolicyRecord
    act: Act


class IssuerKeysPublished(msgspec.Struct, frozen=True, array_like=True, tag="issuer.keys_published"):
    """The issuer's verification keys. jwks: the JSON text of an RFC 7517 key set; public keys only."""

    issuer: str
    jwks: bytes
    at: UnixTime


class StreamChanged(msgspec.Struct, frozen=True, array_like=True, tag="stream.changed"):
    """A receiver's stream of security events was made, changed, confirmed or deleted (SSF 1.0)."""

    stream: StreamRecord
    act: Act


class LedgerCreated(msgspec.Struct, frozen=True, array_like=True, tag="ledger.created"):
    """The first event of every ledger: what it may be used for is settled here, once."""

    kind: Literal["sandbox", "production"]
    incarnation: str
    at: UnixTime


class LedgerRestored(msgspec.Struct, frozen=True, array_like=True, tag="ledger.restored"):
    """The first event of a new incarnation: the ledger was restored from a backup, and what came after it is lost.

    The only event that may leave numbers out: its own position is above every position ever reported.
    """

    previous_incarnation: str
    restored_seq: int  # of the last event that was kept, under the previous incarnation
    reported_seq: int  # the highest position known to have been reported; not below restored_seq
    gap_from: UnixTime  # when the last event that was kept was recorded
    gap_to: UnixTime  # when the restore was made: nothing was written under the previous incarnation after that
    backup: str  # id of the backup; the operator's records name it
    erased_again: int = 0  # persons whose erasure came after the backup was made, and was applied anew


class Change(enum.StrEnum):
    """What is told of a consent that a restored ledger has lost. The ends bear the names of the states they lead to."""

    REVOKED = "revoked"
    DISPUTED = "terminated_by_dispute"
    CONSUMED = "consumed"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    GRANTED = "granted"
    RENEWED = "renewed"
    WINDOW_CUT = "window_cut"


class RecoveryTold(msgspec.Struct, frozen=True, array_like=True, tag="recovery.told"):
    """Somebody told what the restored ledger had lost of a consent; until a newer word on it, it is in doubt.

    The end that follows from it, if any, is the event behind this one.
    """

    consent_id: ConsentId
    change: Change
    teller: ClientId
    role: Role
    told_at: UnixTime
    happened_at: UnixTime | None = None  # as told; a node does not know
    evidence: str = ""  # a reference of the teller's: the id of a pushed event, a case number; never free text
    position: int = 0  # of the lost event, told by a node
    parties: tuple[ClientId, ...] = ()  # the ATP, then the EDPs, as far as the teller knows them


class RecoveryReported(msgspec.Struct, frozen=True, array_like=True, tag="recovery.reported"):
    """A party to the recovery has told what it knows. complete: it says that this is all."""

    teller: ClientId
    role: Role
    told_at: UnixTime
    complete: bool
    told: int  # changes of consents
    since: UnixTime | None = None  # an ATP or EDP: from when on
    known_under: str = ""  # a node: the incarnation it knew …
    known_to: int = 0  # … and up to which position
    participants: tuple[ClientId, ...] = ()  # that were written in the gap: somebody has to look at them
    policy: bool = False  # the policy was written in the gap: somebody has to look at it


class LedgerWentLive(msgspec.Struct, frozen=True, array_like=True, tag="ledger.went_live"):
    """An operator ended the recovery: what this ledger says is the truth again."""

    act: Act
    without: tuple[str, ...]  # parties that had not reported, and whatever else it went live in spite of
    reported: int  # parties that had
    ended: int  # consents that were ended by what was told
    in_doubt: int  # consents of which nothing newer than the doubt is known: lost grants and renewals


ConsentEvent = (
    ConsentRequested
    | ConsentGranted
    | ConsentDeclined
    | ConsentAbandoned
    | ConsentRenewed
    | ConsentWindowCut
    | ConsentConsumed
    | ConsentExpired
    | ConsentRevoked
    | ConsentDisputed
    | ConsentSuperseded
)
ParticipantEvent = (
    ParticipantRegistered
    | ParticipantUpdated
    | ParticipantSuspended
    | ParticipantReinstated
    | CertificatesReplaced
    | FallbackSuspended
    | FallbackRestored
)
LedgerEvent = (
    ConsentEvent
    | ParticipantEvent
    | CertificateBound
    | CertificateReleased
    | TokenRevoked
    | PolicyChanged
    | IssuerKeysPublished
    | StreamChanged
    | LedgerCreated
    | LedgerRestored
    | LedgerWentLive
    | RecoveryTold
    | RecoveryReported
)


class Person(msgspec.Struct, frozen=True, array_like=True):
    """Whom a consent is of. Occupancy is half-open [moved_in, moved_out), None = unknown or still there."""

    person_id: str  # pseudonymous
    name: str
    address: str
    moved_in: UnixTime | None = None
    moved_out: UnixTime | None = None


class ConsentPersonal(msgspec.Struct, frozen=True, array_like=True):
    """The personal part of every consent event; stored encrypted under the person's own key."""

    person: Person
    meter_points: tuple[str, ...]


class UnreadableEvent(Fault):
    """Bytes in the ledger that are no event of ours, or a newer program's."""

    kind = Kind.BROKEN


_encoder = msgspec.msgpack.Encoder()
_events: Final[msgspec.msgpack.Decoder[LedgerEvent]] = msgspec.msgpack.Decoder(LedgerEvent)
_personal: Final = msgspec.msgpack.Decoder(ConsentPersonal)


def tag_of(event: LedgerEvent) -> str:
    """The event's tag: `consent.granted` …"""
    tag = type(event).__struct_config__.tag
    assert isinstance(tag, str)  # noqa: S101 - every class above has one
    return tag


def encode(event: LedgerEvent) -> bytes:
    """The stored body."""
    return _encoder.encode(event)


def decode(body: bytes) -> LedgerEvent:
    """Read a stored body of any age. Raises UnreadableEvent."""
    try:
        return _events.decode(body)
    except msgspec.MsgspecError as error:
        raise UnreadableEvent("a ledger event could not be read", detail=str(error)) from error


def event_of(stored: StoredEvent) -> LedgerEvent:
    """Read the body of a stored event. Raises UnreadableEvent, also when its tag is not that of its body."""
    event = decode(stored.body)
    if tag_of(event) != stored.tag:
        raise UnreadableEvent("a ledger event's body is not what its tag says", detail=stored.tag)
    return event


def encode_personal(personal: ConsentPersonal) -> Personal:
    """The personal part as the ledger takes it."""
    return Personal(personal.person.person_id, _encoder.encode(personal))


def decode_personal(plaintext: bytes) -> ConsentPersonal:
    """Read a decrypted personal part of any age. Raises UnreadableEvent."""
    try:
        return _personal.decode(plaintext)
    except msgspec.MsgspecError as error:
        raise UnreadableEvent("a personal part could not be read") from error


_SINGLE: Final[dict[type, str]] = {
    PolicyChanged: "policy",
    IssuerKeysPublished: "issuer",
    LedgerCreated: "ledger",
    LedgerRestored: "ledger",
    LedgerWentLive: "ledger",
}


def subject_of(event: LedgerEvent) -> str:
    """What the event is about."""
    match event:
        case PolicyChanged() | IssuerKeysPublished() | LedgerCreated() | LedgerRestored() | LedgerWentLive():
            return _SINGLE[type(event)]
        case RecoveryTold() | RecoveryReported():
            return _recovery_subject(event)
        case TokenRevoked() | StreamChanged():
            return _keyed_subject(event)
        case CertificateBound() | CertificateReleased():
            return f"certificate:{event.thumbprint.hex()}"
        case (
            ParticipantRegistered()
            | ParticipantUpdated()
            | ParticipantSuspended()
            | ParticipantReinstated()
            | CertificatesReplaced()
            | FallbackSuspended()
            | FallbackRestored()
        ):
            return f"participant:{event.participant.client_id}"
        case _:
            return f"consent:{event.consent_id}"


def feed_record_of(event: LedgerEvent) -> FeedRecord | None:
    """What the event means to engines; None = nothing, the feed gets an empty entry with its number."""
    match event:
        case TokenRevoked() | StreamChanged():
            return _keyed_record(event)
        case PolicyChanged() | IssuerKeysPublished():
            return _service_record(event)
        case LedgerRestored() | LedgerWentLive() | RecoveryTold():
            return _recovery_record(event)
        case LedgerCreated() | RecoveryReported() | CertificateBound() | CertificateReleased():
            return None  # engines know certificates from the participants that have them
        case (
            ParticipantRegistered()
            | ParticipantUpdated()
            | ParticipantSuspended()
            | ParticipantReinstated()
            | CertificatesReplaced()
            | FallbackSuspended()
            | FallbackRestored()
        ):
            key = event.participant.client_id.encode()
            return FeedRecord(EntryKind.PARTICIPANT, key, _encoder.encode(event.participant))
        case _:
            return _consent_record(event)


def _keyed_record(event: TokenRevoked | StreamChanged) -> FeedRecord:
    if isinstance(event, TokenRevoked):
        return FeedRecord(EntryKind.TOKEN_REVOCATION, event.key, _encoder.encode(event.revocation))
    return FeedRecord(EntryKind.RECEIVER, event.stream.stream_id.encode(), _encoder.encode(event.stream))


def _service_record(event: PolicyChanged | IssuerKeysPublished) -> FeedRecord:
    if isinstance(event, PolicyChanged):
        return FeedRecord(EntryKind.POLICY, POLICY_KEY, _encoder.encode(event.policy))
    return FeedRecord(EntryKind.KEYS, KEYS_KEY, _encoder.encode(event.issuer))


def _keyed_subject(event: TokenRevoked | StreamChanged) -> str:
    return f"token:{event.key.hex()}" if isinstance(event, TokenRevoked) else stream_subject(event.stream.stream_id)


def _recovery_subject(event: RecoveryTold | RecoveryReported) -> str:
    return told_subject(event.consent_id) if isinstance(event, RecoveryTold) else reported_subject(event.teller)


def _recovery_record(event: LedgerRestored | LedgerWentLive | RecoveryTold) -> FeedRecord:
    match event:
        case LedgerRestored():
            restore = RestoreRecord(event.restored_seq, event.reported_seq, event.gap_from, event.gap_to)
            return FeedRecord(EntryKind.RECOVERY, event.previous_incarnation.encode(), _encoder.encode(restore))
        case LedgerWentLive():
            return FeedRecord(EntryKind.RECOVERY, LIVE_KEY, _encoder.encode(LiveRecord(event.act.at)))
        case RecoveryTold():
            doubt = _encoder.encode(DoubtRecord(event.told_at))
            return FeedRecord(EntryKind.DOUBT, consent_key(event.consent_id), doubt)


def told_subject(consent_id: ConsentId) -> str:
    """What is told of one consent, by whomever."""
    return f"told:{consent_id}"


def reported_subject(client_id: ClientId) -> str:
    """What one party has reported."""
    return f"reported:{client_id}"


def stream_subject(stream_id: str) -> str:
    """One stream of a receiver."""
    return f"stream:{stream_id}"


_NEVER_GRANTED: Final = frozenset({State.REQUESTED, State.DECLINED, State.ABANDONED})


def _consent_record(event: ConsentEvent) -> FeedRecord | None:
    if event.consent.state in _NEVER_GRANTED:
        return None  # no token can name it
    return FeedRecord(EntryKind.CONSENT, consent_key(event.consent_id), _encoder.encode(event.consent))


def append_of(event: LedgerEvent, expected_version: int, personal: Personal | None = None) -> Append:
    """The append for an event. expected_version: of its subject before it, 0 = the subject is new."""
    return Append(subject_of(event), tag_of(event), expected_version, encode(event), personal, feed_record_of(event))
