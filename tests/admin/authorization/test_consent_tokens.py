"""A token of a consent that stands, over real mutual TLS: for whom, bound to what, and every refusal."""

import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from admin.ledger.events import Act, Initiator, ParticipantSuspended, Route, append_of, event_of
from admin.pki.keys import FileTokenSigner
from engine.clock import UnixTime, parse_utc
from engine.telemetry.host import SystemClock
from engine.tokens.claims import VerifiedToken
from engine.tokens.jws import encode_part
from engine.tokens.verify import verify
from tests.support.admin_service import Site, grant_form, machine_site
from tests.support.pki import ISSUER, METER_KEY, Pki, key_set_of

FOR_EDP_1 = {"edp": "edp-1"}


async def asked(site: Site, client_id: str, consent_id: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    return await site.call(client_id, "POST", f"/consents/{consent_id}/tokens", body or FOR_EDP_1)


def read(line: dict[str, Any], signer: FileTokenSigner) -> VerifiedToken:
    token = verify(line["token"].encode(), key_set_of(signer, issuer=ISSUER), METER_KEY, SystemClock().now())
    assert isinstance(token, VerifiedToken)
    return token


@pytest.mark.parametrize("caller", ["atp-1", "operator-1"])
async def test_the_line_is_that_of_minted_tokens_and_the_token_verifies(
    site: Site, token_signer: FileTokenSigner, caller: str
) -> None:
    consent_id = await site.granted()
    status, line = await asked(site, caller, consent_id)
    assert status == 200, line
    assert {name: line[name] for name in line if name not in ("token", "expires_at")} == {
        "consent_id": consent_id, "edp": "edp-1", "atp": "atp-1",
    }  # fmt: skip
    token = read(line, token_signer)
    assert [grant.detail.consent_id for grant in token.grants] == [consent_id]
    assert token.grants[0].detail.meter_points == tuple(grant_form()["authorization_details"]["meter_points"])
    assert token.claims.exp == parse_utc(line["expires_at"])


async def test_two_tokens_of_one_consent_share_no_name(site: Site, token_signer: FileTokenSigner) -> None:
    consent_id = await site.granted()
    one, two = [read((await asked(site, "atp-1", consent_id))[1], token_signer).claims for _ in range(2)]
    assert one.jti != two.jti
    assert one.sub != two.sub


async def test_it_is_bound_to_the_certificate_that_the_atp_calls_with(
    site: Site, pki: Pki, token_signer: FileTokenSigner
) -> None:
    _, line = await asked(site, "atp-1", await site.granted())
    bound_to = read(line, token_signer).claims.cnf.x5t_s256
    assert bound_to == encode_part(pki.client("atp-1").certificate.thumbprint).decode()


@pytest.mark.parametrize(
    "consent_id", ["7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10", "nonsense", "7F3C1B1E-5A0E-4A55-9A53-0D6C2F7C9B10"]
)
async def test_another_atps_consent_is_answered_as_one_that_does_not_exist(site: Site, consent_id: str) -> None:
    foreign = await asked(site, "atp-2", await site.granted())
    assert foreign == await asked(site, "atp-2", consent_id)
    assert (foreign[0], foreign[1]["code"]) == (404, "unknown_consent")


@pytest.mark.parametrize("client_id", ["edp-1", "node-1"])
async def test_only_the_atp_and_operators_may(site: Site, client_id: str) -> None:
    status, problem = await asked(site, client_id, await site.granted())
    assert (status, problem["code"]) == (403, "wrong_role")


async def test_an_ended_consent_gets_no_token(site: Site) -> None:
    consent_id = await site.granted()
    await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke", {"reason": "withdrawn"})
    status, problem = await asked(site, "atp-1", consent_id)
    assert (status, problem["code"], problem["detail"]) == (409, "cannot_mint", "the consent is not active")


async def test_an_erased_persons_consent_gets_no_token(site: Site) -> None:
    consent_id = await site.granted()
    assert await site.ledger.erase_person(grant_form()["person"]["person_id"])
    status, problem = await asked(site, "atp-1", consent_id)
    assert (status, problem["code"]) == (409, "cannot_mint")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"edp": "edp-2"}, "#/edp"),
        ({"edp": "atp-1"}, "#/edp"),
        ({"edp": "nobody"}, "#/edp"),
        ({"edp": "EDP 1"}, "#/edp"),
        ({"edp": 1}, "#/edp"),
        ({"edp": "edp-1", "colour": "red"}, "#/colour"),
        ({"colour": "red"}, "#/edp"),
    ],
)
async def test_a_wrong_edp_is_named_by_its_field(site: Site, body: dict[str, Any], pointer: str) -> None:
    status, problem = await asked(site, "atp-1", await site.granted(), body)
    assert status == 400
    assert pointer in [error["pointer"] for error in problem["errors"]]


async def suspend(site: Site, client_id: str) -> None:
    state = await site.ledger.subject(f"participant:{client_id}")
    assert state is not None
    before: Any = event_of(state.event)
    act = Act(Initiator.SYSTEM, "test", Route.SYSTEM, UnixTime(int(time.time())))
    changed = msgspec.structs.replace(before.participant, suspended=True)
    await site.ledger.append([append_of(ParticipantSuspended(changed, before.organisation, act), state.version)])


async def test_a_suspended_edp_gets_no_token(site: Site) -> None:
    consent_id = await site.granted()
    await suspend(site, "edp-1")
    status, problem = await asked(site, "atp-1", consent_id)
    assert (status, problem["errors"][0]["pointer"]) == (400, "#/edp")


async def test_a_suspended_atp_gets_no_token_through_an_operator_either(site: Site) -> None:
    consent_id = await site.granted()
    await suspend(site, "atp-1")
    status, problem = await asked(site, "operator-1", consent_id)
    assert (status, problem["code"]) == (409, "cannot_mint")


async def test_a_production_ledger_refuses(pki: Pki, token_signer: FileTokenSigner, tmp_path: Path) -> None:
    async with machine_site(pki, token_signer, tmp_path, kind="production") as site:
        status, problem = await asked(site, "atp-1", str(uuid.uuid4()))
    assert (status, problem["code"]) == (403, "sandbox_only")
