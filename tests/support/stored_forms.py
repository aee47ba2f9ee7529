"""One value of every struct that is ever stored, by name; `tests/vectors/records` pins the bytes of each."""

from typing import Final

import msgspec

from admin.ledger.events import (
    Act,
    CertificateBound,
    CertificateReleased,
    CertificatesReplaced,
    Change,
    ConsentAbandoned,
    ConsentConsumed,
    ConsentDeclined,
    ConsentDisputed,
    ConsentExpired,
    ConsentGranted,
    ConsentPersonal,
    ConsentRenewed,
    ConsentRequested,
    ConsentRevoked,
    ConsentSuperseded,
    ConsentWindowCut,
    FallbackRestored,
    FallbackSuspended,
    Initiator,
    IssuerKeysPublished,
    LeadOccupant,
    LedgerCreated,
    LedgerEvent,
    LedgerRestored,
    LedgerWentLive,
    Organisation,
    Origin,
    ParticipantRegistered,
    ParticipantReinstated,
    ParticipantSuspended,
    ParticipantUpdated,
    Person,
    PolicyChanged,
    RecoveryReported,
    RecoveryTold,
    Route,
    StreamChanged,
    Terms,
    TokenRevoked,
)
from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import (
    AccessMode,
    Answers,
    Certificate,
    ClientId,
    ConsentId,
    ConsentRecord,
    DoubtRecord,
    FallbackSuspension,
    LiveRecord,
    OnSilence,
    ParticipantRecord,
    PolicyRecord,
    RestoreRecord,
    Role,
    Thumbprint,
    TokenRevocation,
)
from engine.consent.states import State
from engine.decision.freshness import Bound
from engine.feed.entries import Entry, EntryKind, Position
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

ID: Final = ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10")
OTHER: Final = ConsentId("c0ffee00-1111-4222-8333-444455556666")
YES: Final = True
AT: Final = UnixTime(1_795_341_600)
CONSENT: Final = ConsentRecord(
    State.ACTIVE,
    3,
    ClientId("atp-1"),
    "hh-electricity-import",
    AccessMode.ENDURING,
    UnixTime(1_795_000_000),
    UnixTime(1_810_000_000),
    UnixTime(1_763_769_600),
    UnixTime(1_800_000_000),
    (b"0123456789abcdef", b"fedcba9876543210"),
    (ClientId("edp-1"), ClientId("edp-2")),
    "advice",
)
TERMS: Final = Terms(
    "https://ccs.example/rar/energy-consent/v1",
    "Compare your tariff",
    "atp-decl-1",
    "c-4471",
    ("https://api.edp7.example/hh",),
    "consent",
    Origin.IMPORTED,
)
ACT: Final = Act(Initiator.OPERATOR, "operator-1", Route.CONSOLE, AT, "wording-1", "withdrawn")
PARTICIPANT: Final = ParticipantRecord(
    ClientId("edp-1"),
    Role.EDP,
    YES,
    (Certificate(Thumbprint(b"t" * 32), UnixTime(1_820_000_000)),),
    ("hh-electricity-import",),
    Answers.SIGNED,
    YES,
    1000,
    100_000,
    FallbackSuspension(UnixTime(1_795_340_000), 91_822),
)
ORGANISATION: Final = Organisation("Made-Up Networks", ("https://api.edp7.example/hh",))
POLICY: Final = PolicyRecord(OnSilence.HALT, Seconds(3600.0))
REVOCATION: Final = TokenRevocation(UnixTime(1_795_342_200))
STREAM: Final = StreamRecord(
    "11112222-3333-4444-8555-666677778888",
    ClientId("edp-1"),
    Role.EDP,
    DeliveryMethod.PUSH,
    StreamStatus.PAUSED,
    "https://events.edp7.example/ccs",
    ("https://schemas.ccs.example/secevent/consent/event-type/consent-revoked",),
    "hot standby",
    "not confirmed",
    UnixTime(1_795_342_500),
    "c2hvdyB0aGF0IHlvdSByZWFkIGl0",
    YES,
    AT,
    YES,
    UnixTime(1_795_341_660),
    3,
)


def ended(state: State) -> ConsentRecord:
    return msgspec.structs.replace(CONSENT, state=state)


EVENTS: Final[dict[str, LedgerEvent]] = {
    "consent.requested": ConsentRequested(ID, ended(State.REQUESTED), TERMS, ACT),
    "consent.granted": ConsentGranted(ID, CONSENT, TERMS, ACT, LeadOccupant(AT, UnixTime(AT + 1), "lead-2")),
    "consent.declined": ConsentDeclined(ID, ended(State.DECLINED), TERMS, ACT),
    "consent.abandoned": ConsentAbandoned(ID, ended(State.ABANDONED), TERMS, ACT),
    "consent.renewed": ConsentRenewed(ID, CONSENT, TERMS, ACT, UnixTime(1_800_000_000), AT, "case-7"),
    "consent.window_cut": ConsentWindowCut(ID, CONSENT, TERMS, ACT, UnixTime(1_760_000_000), UnixTime(1_801_000_000)),
    "consent.consumed": ConsentConsumed(ID, ended(State.CONSUMED), TERMS, ACT, ClientId("edp-1"), "share-77"),
    "consent.expired": ConsentExpired(ID, ended(State.EXPIRED), TERMS, ACT),
    "consent.revoked": ConsentRevoked(ID, ended(State.REVOKED), TERMS, ACT, UnixTime(1_795_300_000), "case-8"),
    "consent.disputed": ConsentDisputed(
        ID, ended(State.TERMINATED_BY_DISPUTE), TERMS, ACT, "D-17", UnixTime(1_796_662_800)
    ),
    "consent.superseded": ConsentSuperseded(ID, ended(State.SUPERSEDED), TERMS, ACT, OTHER),
    "participant.registered": ParticipantRegistered(PARTICIPANT, ORGANISATION, ACT),
    "participant.updated": ParticipantUpdated(PARTICIPANT, ORGANISATION, ACT),
    "participant.suspended": ParticipantSuspended(PARTICIPANT, ORGANISATION, ACT),
    "participant.reinstated": ParticipantReinstated(PARTICIPANT, ORGANISATION, ACT),
    "participant.certificates_replaced": CertificatesReplaced(PARTICIPANT, ORGANISATION, ACT),
    "participant.fallback_suspended": FallbackSuspended(PARTICIPANT, ORGANISATION, ACT, UnixTime(1_795_253_599)),
    "participant.fallback_restored": FallbackRestored(PARTICIPANT, ORGANISATION, ACT, UnixTime(1_795_340_000)),
    "certificate.bound": CertificateBound(Thumbprint(b"t" * 32), ClientId("edp-1"), ACT),
    "certificate.released": CertificateReleased(Thumbprint(b"t" * 32), ClientId("edp-1"), ACT),
    "token.revoked": TokenRevoked(b"k" * 16, REVOCATION, ClientId("atp-1"), ACT),
    "policy.changed": PolicyChanged(POLICY, ACT),
    "issuer.keys_published": IssuerKeysPublished("https://ccs.example", b'{"keys":[]}', AT),
    "stream.changed": StreamChanged(STREAM, ACT),
    "ledger.created": LedgerCreated("sandbox", "0123456789abcdef", AT),
    "ledger.restored": LedgerRestored(
        "0123456789abcdef", 1_000_000, 1_000_040, AT, UnixTime(AT + 60), "00112233445566778899aabbccddeeff", 2
    ),
    "ledger.went_live": LedgerWentLive(ACT, ("edp-2",), 4, 2, 1),
    "recovery.told": RecoveryTold(
        ID,
        Change.REVOKED,
        ClientId("edp-1"),
        Role.EDP,
        AT,
        UnixTime(AT - 60),
        "set-4471",
        1_000_017,
        (ClientId("atp-1"), ClientId("edp-1")),
    ),
    "recovery.reported": RecoveryReported(
        ClientId("node-1"), Role.NODE, AT, YES, 7, AT, "0123456789abcdef", 1_000_040, (ClientId("edp-2"),), YES
    ),
}
RECORDS: Final[dict[str, msgspec.Struct]] = {
    "ConsentRecord": CONSENT,
    "TokenRevocation": REVOCATION,
    "StreamRecord": STREAM,
    "ParticipantRecord": PARTICIPANT,
    "PolicyRecord": POLICY,
    "RestoreRecord": RestoreRecord(1_000_000, 1_000_040, AT, UnixTime(AT + 60)),
    "LiveRecord": LiveRecord(AT),
    "DoubtRecord": DoubtRecord(AT),
    "ConsentPersonal": ConsentPersonal(
        Person("person-77", "Ann Made-Up", "1 Nowhere Street", AT, UnixTime(AT + 1)), ("mpan:1000000000012",)
    ),
    "Entry": Entry("0123456789abcdef", 7, EntryKind.CONSENT, b"key", b"record"),
    "Position": Position("0123456789abcdef", 7),
    "Bound": Bound("0123456789abcdef", 7, "boot-1", BootTime(100.5), AT),
}
_UNSUSPENDED: Final = msgspec.structs.replace(PARTICIPANT, fallback_suspended=None)
_WITHOUT: Final = "without a suspension of fallback"
# The same values as a program wrote them before their last fields existed: defaults stand in.
EARLIER: Final[dict[str, msgspec.Struct]] = {
    "ConsentRecord": msgspec.structs.replace(CONSENT, purpose_code=None),
    "ParticipantRecord": ParticipantRecord(ClientId("edp-1"), Role.EDP, YES, PARTICIPANT.certificates),
    "PolicyRecord": PolicyRecord(),
    "ConsentPersonal": ConsentPersonal(Person("person-77", "Ann", "1"), ("mpan:1000000000012",)),
    "Entry": Entry("0123456789abcdef", 7, EntryKind.NOTHING),
    "consent.granted": ConsentGranted(
        ID,
        msgspec.structs.replace(CONSENT, purpose_code=None),
        Terms(TERMS.schema_version, TERMS.purpose, TERMS.atp_declaration),
        Act(Initiator.CONSUMER, "account-1", Route.PORTAL, AT),
    ),
    "consent.renewed": ConsentRenewed(ID, CONSENT, TERMS, ACT, UnixTime(1_800_000_000), AT),
    "consent.revoked": ConsentRevoked(ID, ended(State.REVOKED), TERMS, ACT, UnixTime(1_795_300_000)),
    "consent.disputed": ConsentDisputed(ID, ended(State.TERMINATED_BY_DISPUTE), TERMS, ACT, "D-17"),
    "participant.registered": ParticipantRegistered(
        ParticipantRecord(ClientId("edp-1"), Role.EDP, YES, PARTICIPANT.certificates),
        Organisation("Made-Up Networks"),
        Act(Initiator.OPERATOR, "operator-1", Route.CONSOLE, AT),
    ),
    f"ParticipantRecord, {_WITHOUT}": _UNSUSPENDED,
    f"participant.registered, {_WITHOUT}": ParticipantRegistered(_UNSUSPENDED, ORGANISATION, ACT),
    f"participant.updated, {_WITHOUT}": ParticipantUpdated(_UNSUSPENDED, ORGANISATION, ACT),
    f"participant.suspended, {_WITHOUT}": ParticipantSuspended(_UNSUSPENDED, ORGANISATION, ACT),
    f"participant.reinstated, {_WITHOUT}": ParticipantReinstated(_UNSUSPENDED, ORGANISATION, ACT),
    f"participant.certificates_replaced, {_WITHOUT}": CertificatesReplaced(_UNSUSPENDED, ORGANISATION, ACT),
}
