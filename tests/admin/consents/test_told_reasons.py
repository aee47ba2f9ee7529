"""Why a consent is no longer valid, from the ATP's call to what each receiver is told of it."""

from typing import Any, get_args

import msgspec
import pytest
import trio

from admin.consents.commands import dispute
from admin.consents.forms import InvalidReason
from admin.disputes.answering import AnswerTerm
from admin.ledger.events import Act, Initiator, Route
from engine.clock import Seconds, format_utc, parse_utc
from engine.consent.records import ClientId
from engine.events.sets import CONSENT_TYPE, event_claims
from engine.pusher.service import Delivery
from engine.telemetry.host import SystemClock
from tests.admin.consents.test_views import invalid
from tests.admin.directory.test_stream_views import created
from tests.support.admin_service import ISSUER, PATIENCE, Site
from tests.support.restored import say_restored

CODES = {reason: "moved_out" if reason == "moved_out" else "atp_withdrew" for reason in get_args(InvalidReason)}


async def told(site: Site, consent_id: str, change: str) -> dict[ClientId, dict[str, Any]]:
    """What both receivers read of a change, once the outbox has it."""
    found: list[Delivery] = []
    with trio.fail_after(PATIENCE):
        while len(found) < 2:
            deliveries = await site.outbox.unsigned(0, 500, Seconds(0.1))
            found = [one for one in deliveries if (subject_of(one), change_of(one)) == (consent_id, change)]
    return {one.client_id: payload_of(one) for one in found}


def subject_of(delivery: Delivery) -> str:
    return getattr(delivery.fact, "consent_id", "")


def change_of(delivery: Delivery) -> str:
    return getattr(delivery.fact, "change", "")


def payload_of(delivery: Delivery) -> dict[str, Any]:
    """The event as it goes out, read back from its JSON."""
    claims = event_claims(
        delivery.fact,
        receiver=delivery.client_id,
        role=delivery.role,
        issuer=ISSUER,
        jti=delivery.jti,
        seq=delivery.seq,
        prev=delivery.prev,
        txn=delivery.txn,
    )
    events: dict[str, dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(claims))["events"]
    (uri,) = events
    assert uri in CONSENT_TYPE.values()
    return events[uri]


async def test_the_atp_hears_its_own_reason_and_the_edp_none(site: Site) -> None:
    for client_id in ("atp-1", "edp-1"):
        await created(site, {}, client_id)
    assert set(CODES.values()) == {"moved_out", "atp_withdrew"}
    for number, (reason, code) in enumerate(CODES.items()):
        consent_id = await site.granted(number)
        form = invalid(reason=reason)
        status, answer = await site.call("atp-1", "POST", f"/consents/{consent_id}/invalid", form)
        assert (status, answer["reason"]) == (200, reason)
        copies = await told(site, consent_id, "revoked")
        to_atp, to_edp = copies[ClientId("atp-1")], copies[ClientId("edp-1")]
        assert (to_atp["reason_code"], to_atp["initiating_entity"]) == (code, "system")
        assert to_atp["effective_at"] == to_edp["effective_at"] == parse_utc(form["effective_from"])
        assert to_atp["effective_at"] < to_atp["event_timestamp"]
        assert to_edp.keys() == {"consent_version", "state", "effective_at", "event_timestamp", "client_id"}
        assert to_edp == {name: value for name, value in to_atp.items() if name in to_edp}
        if reason != "moved_out":
            assert reason not in str(copies)
        assert form["evidence"] not in str(copies)


@pytest.mark.parametrize(
    ("caller", "code", "entity"), [("atp-1", "atp_withdrew", "system"), ("operator-1", "admin", "admin")]
)
async def test_a_plain_revocation_says_who_withdrew(site: Site, caller: str, code: str, entity: str) -> None:
    for client_id in ("atp-1", "edp-1"):
        await created(site, {}, client_id)
    consent_id = await site.granted(1)
    body = {"reason": "no_longer_needed"}
    assert (await site.call(caller, "POST", f"/consents/{consent_id}/revoke", body))[0] == 200
    copies = await told(site, consent_id, "revoked")
    to_atp, to_edp = copies[ClientId("atp-1")], copies[ClientId("edp-1")]
    assert (to_atp["reason_code"], to_atp["initiating_entity"]) == (code, entity)
    assert not {"reason_code", "initiating_entity"} & to_edp.keys()


DISPUTED_ON, ANSWERED_BY = parse_utc("2026-12-18T10:00:00Z"), parse_utc("2027-01-06T17:00:00Z")


async def disputed(site: Site, number: int, *, earlier: bool = False) -> str:
    """The id of a consent that was disputed a week before Christmas; earlier: as a program without terms wrote it."""
    consent_id = await site.granted(number)
    state = await site.ledger.subject(f"consent:{consent_id}")
    assert state is not None
    act = Act(Initiator.CONSUMER, "account-2", Route.PORTAL, DISPUTED_ON)
    append = dispute(state, case_id="D-17", act=act, now=DISPUTED_ON)
    if earlier:
        body = msgspec.msgpack.encode(msgspec.msgpack.decode(append.body)[:-1])
        append = msgspec.structs.replace(append, body=body)
    await site.ledger.append([append])
    return consent_id


@pytest.mark.parametrize("earlier", [False, True])
async def test_by_when_a_dispute_is_answered_is_its_atp_s_to_know(site: Site, earlier: bool) -> None:
    for client_id in ("atp-1", "edp-1"):
        await created(site, {}, client_id)
    consent_id = await disputed(site, 1, earlier=earlier)
    copies = await told(site, consent_id, "disputed")
    to_atp, to_edp = copies[ClientId("atp-1")], copies[ClientId("edp-1")]
    assert to_atp.get("respond_by") == (None if earlier else ANSWERED_BY)
    assert (to_atp["dispute_ref"], to_atp["reason_code"]) == ("D-17", "dispute")
    assert to_edp == {name: value for name, value in to_atp.items() if name in to_edp}
    assert to_edp.keys() == {"consent_version", "state", "effective_at", "event_timestamp", "client_id"}
    assert "account-2" not in str(copies)


@pytest.mark.parametrize("earlier", [False, True])
async def test_its_atp_reads_it_of_the_consent_and_nobody_else(site: Site, earlier: bool) -> None:
    path = f"/consents/{await disputed(site, 1, earlier=earlier)}"
    shown = {"dispute_ref": "D-17"} | ({} if earlier else {"respond_by": "2027-01-06T17:00:00Z"})
    for caller in ("atp-1", "operator-1"):
        status, body = await site.call(caller, "GET", path)
        assert (status, body["state"], body["dispute"]) == (200, "terminated_by_dispute", shown)
        assert "account-2" not in str(body)
    assert [(await site.call(caller, "GET", path))[0] for caller in ("atp-2", "edp-1")] == [404, 403]
    status, body = await site.call("edp-1", "GET", "/consents/snapshot")
    assert (status, "terminated_by_dispute" in str(body)) == (200, True)
    assert not any(word in str(body) for word in ("D-17", "respond_by", "dispute_ref"))


async def test_a_consent_that_was_not_disputed_has_nothing_to_be_answered(site: Site) -> None:
    path = f"/consents/{await site.granted(1)}"
    assert "dispute" not in (await site.call("atp-1", "GET", path))[1]
    assert (await site.call("atp-1", "POST", f"{path}/revoke", {"reason": "withdrawn"}))[0] == 200
    assert "dispute" not in (await site.call("atp-1", "GET", path))[1]


async def test_a_dispute_that_was_lost_and_told_again_gives_its_atp_the_whole_term(site: Site) -> None:
    for client_id in ("atp-1", "edp-1"):
        await created(site, {}, client_id)
    consent_id = await site.granted(1)
    now = SystemClock().now()
    await say_restored(site.ledger, gap_from=now - 60, gap_to=now)
    item = {"consent_id": consent_id, "change": "terminated_by_dispute", "at": format_utc(now), "evidence": "set-1"}
    form = {"since": "2026-11-01T00:00:00Z", "complete": True, "items": [item]}
    assert (await site.call("edp-1", "POST", "/recovery/reports", form))[0] == 200
    copies = await told(site, consent_id, "disputed")
    to_atp, to_edp = copies[ClientId("atp-1")], copies[ClientId("edp-1")]
    assert AnswerTerm().respond_by(now) <= to_atp["respond_by"] <= AnswerTerm().respond_by(SystemClock().now())
    assert not {"respond_by", "dispute_ref"} & to_edp.keys()
