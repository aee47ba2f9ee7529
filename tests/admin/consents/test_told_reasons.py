"""Why a consent is no longer valid, from the ATP's call to what each receiver is told of it."""

from typing import Any, get_args

import msgspec
import pytest
import trio

from admin.consents.forms import InvalidReason
from engine.clock import Seconds, parse_utc
from engine.consent.records import ClientId
from engine.events.sets import CONSENT_TYPE, event_claims
from engine.pusher.service import Delivery
from tests.admin.consents.test_views import invalid
from tests.admin.directory.test_stream_views import created
from tests.support.admin_service import ISSUER, Site

CODES = {reason: "moved_out" if reason == "moved_out" else "atp_withdrew" for reason in get_args(InvalidReason)}


async def told(site: Site, consent_id: str, change: str) -> dict[ClientId, dict[str, Any]]:
    """What both receivers read of a change, once the outbox has it."""
    found: list[Delivery] = []
    with trio.fail_after(10):
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
