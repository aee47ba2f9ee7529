"""The directory's rules, each refusal included."""

from typing import Any

import msgspec
import pytest

from admin.directory.participants import (
    CertificateTaken,
    InvalidParticipant,
    NoChange,
    OwnSuspension,
    ParticipantExists,
    Standing,
    UnknownParticipant,
    register,
    reinstate,
    replace_certificates,
    standing_after,
    suspend,
    update,
)
from admin.ledger.events import Act, Initiator, Organisation, Route, append_of
from engine.clock import UnixTime
from engine.consent.records import Answers, Certificate, ClientId, ParticipantRecord, Role, Thumbprint
from engine.feed.entries import EntryKind

NOW = UnixTime(1_800_000_000)
ACT = Act(Initiator.OPERATOR, "ops", Route.API, NOW)
ORGANISATION = Organisation("Lantern Energy Data", ("https://api.lantern.example/hh",))


def certificate(number: int, *, not_after: int = NOW + 1) -> Certificate:
    return Certificate(Thumbprint(bytes([number]) * 32), UnixTime(not_after))


EDP = ParticipantRecord(
    ClientId("edp-1"), Role.EDP, suspended=False, certificates=(certificate(1),), datasets=("hh-electricity-import",)
)
ATP = ParticipantRecord(ClientId("atp-1"), Role.ATP, suspended=False, certificates=(certificate(2),))
STANDING = Standing(EDP, ORGANISATION)


def changed(record: ParticipantRecord, **members: Any) -> ParticipantRecord:
    return msgspec.structs.replace(record, **members)


def test_a_registration_carries_the_participant_and_who_did_it() -> None:
    event = register(EDP, ORGANISATION, None, {}, ACT)
    assert standing_after(event) == STANDING
    assert event.act == ACT


def test_nobody_is_registered_as_suspended() -> None:
    assert not register(changed(EDP, suspended=True), ORGANISATION, None, {}, ACT).participant.suspended


def test_an_edp_may_have_signed_answers_and_handle_last_known() -> None:
    signed = changed(EDP, answers=Answers.SIGNED, handles_last_known=True, max_connections=1_000)
    assert register(signed, ORGANISATION, None, {}, ACT).participant == signed


def test_a_client_id_is_registered_once() -> None:
    with pytest.raises(ParticipantExists):
        register(EDP, ORGANISATION, STANDING, {}, ACT)


@pytest.mark.parametrize(
    ("record", "organisation", "said"),
    [
        (changed(EDP, client_id="EDP 1"), ORGANISATION, "client_id"),
        (changed(EDP, client_id="x" * 41), ORGANISATION, "client_id"),
        (changed(EDP, client_id="edp-1\n"), ORGANISATION, "client_id"),
        (EDP, Organisation("  "), "no name"),
        (EDP, Organisation("Lantern", ("http://api.lantern.example",)), "https"),
        (changed(EDP, datasets=("Bad Name",)), ORGANISATION, "datasets"),
        (changed(EDP, datasets=("hh-a1", "hh-a1")), ORGANISATION, "twice"),
        (changed(EDP, max_connections=0), ORGANISATION, "limits"),
        (changed(EDP, max_requests_per_second=0), ORGANISATION, "limits"),
        (changed(EDP, certificates=()), ORGANISATION, "certificates"),
        (changed(EDP, certificates=tuple(certificate(n) for n in range(9))), ORGANISATION, "certificates"),
        (changed(EDP, certificates=(certificate(1), certificate(1))), ORGANISATION, "twice"),
        (changed(EDP, certificates=(certificate(1, not_after=NOW),)), ORGANISATION, "expired"),
        (changed(ATP, datasets=("hh-electricity-import",)), Organisation("Brightway"), "EDP's alone"),
        (changed(ATP, answers=Answers.SIGNED), Organisation("Brightway"), "EDP's alone"),
        (changed(ATP, handles_last_known=True), Organisation("Brightway"), "EDP's alone"),
        (ATP, ORGANISATION, "EDP's alone"),
    ],
)
def test_a_bad_registration_is_refused(record: ParticipantRecord, organisation: Organisation, said: str) -> None:
    with pytest.raises(InvalidParticipant, match=said):
        register(record, organisation, None, {}, ACT)


def test_a_certificate_names_one_client_only() -> None:
    owners = {certificate(1).thumbprint: ClientId("somebody-else")}
    with pytest.raises(CertificateTaken):
        register(EDP, ORGANISATION, None, owners, ACT)
    with pytest.raises(CertificateTaken):
        replace_certificates((certificate(1),), Standing(ATP, Organisation("Brightway")), owners, ACT)


def test_certificates_are_replaced_whole() -> None:
    owners = {certificate(1).thumbprint: EDP.client_id}
    event = replace_certificates((certificate(1), certificate(3)), STANDING, owners, ACT)
    assert event.participant == changed(EDP, certificates=(certificate(1), certificate(3)))


def test_suspension_and_its_end() -> None:
    suspended = standing_after(suspend(STANDING, ACT))
    assert suspended.participant.suspended
    with pytest.raises(NoChange):
        suspend(suspended, ACT)
    assert standing_after(reinstate(suspended, ACT)) == STANDING
    with pytest.raises(NoChange):
        reinstate(STANDING, ACT)


def test_nobody_suspends_itself() -> None:
    operator = msgspec.structs.replace(ATP, client_id=ClientId("ops"), role=Role.OPERATOR)
    with pytest.raises(OwnSuspension):
        suspend(Standing(operator, Organisation("The service")), ACT)


def test_a_suspension_reaches_engines() -> None:
    append = append_of(suspend(STANDING, ACT), 1)
    assert append.feed is not None
    assert (append.feed.kind, append.feed.key) == (EntryKind.PARTICIPANT, b"edp-1")
    assert msgspec.msgpack.decode(append.feed.record, type=ParticipantRecord).suspended


def test_an_update_changes_neither_id_nor_role_nor_certificates_nor_state() -> None:
    asked = ParticipantRecord(
        ClientId("other"), Role.ATP, suspended=False, certificates=(), datasets=("hh-gas",), answers=Answers.SIGNED
    )
    event = update(asked, ORGANISATION, standing_after(suspend(STANDING, ACT)), ACT)
    assert event.participant == changed(EDP, suspended=True, datasets=("hh-gas",), answers=Answers.SIGNED)


def test_a_change_that_changes_nothing_is_refused() -> None:
    with pytest.raises(NoChange):
        update(EDP, ORGANISATION, STANDING, ACT)
    with pytest.raises(NoChange):
        replace_certificates(EDP.certificates, STANDING, {}, ACT)


def test_an_update_keeps_the_rules() -> None:
    with pytest.raises(InvalidParticipant):
        update(changed(EDP, datasets=("Bad Name",)), ORGANISATION, STANDING, ACT)


def test_nobody_unknown_is_changed() -> None:
    with pytest.raises(UnknownParticipant):
        suspend(None, ACT)
    with pytest.raises(UnknownParticipant):
        reinstate(None, ACT)
    with pytest.raises(UnknownParticipant):
        replace_certificates((certificate(1),), None, {}, ACT)
    with pytest.raises(UnknownParticipant):
        update(EDP, ORGANISATION, None, ACT)
