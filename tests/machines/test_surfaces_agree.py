"""Whatever surface is asked, the verdict is the same: introspection with a share, plain or signed, a single
evaluation, a batch.

Random consents, tokens and requests, on one replica. The token is known to the worker, or only by the issuer's record.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey

from admin.authorization.minting import GrantedConsent, Minted
from admin.pki.keys import FileTokenSigner, TokenKey
from engine.clock import UnixTime, format_utc
from engine.consent.meter_points import meter_digest
from engine.consent.records import AccessMode, ClientId, ConsentRecord, Role
from engine.consent.states import State
from engine.feed.entries import EntryKind
from engine.tokens.grants import consent_key
from engine.tokens.keys import JwkSet, PublishedKeys
from engine.tokens.token_records import token_record
from tests.support.endpoint import FORM
from tests.support.evaluations import EvaluationNode, subject
from tests.support.pki import DAY, ISSUER, METER_KEY, METER_POINT, NOW, MakeToken, Pki, granted_consent
from tests.support.replicas import entry

CONSENTS = ("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10", "c0ffee00-1111-4222-8333-444455556666")
POINTS = (METER_POINT, "mpan:2000000000024", "mpan:1012345678903")
DATASETS = ("hh-electricity-import", "hh-gas")
EDPS = ("edp-1", "edp-2")
DAYS = st.sampled_from([NOW + days * DAY for days in (-20, -10, -5, 5, 10, 20)]).map(UnixTime)
PURPOSES = st.sampled_from([None, "advice", "switching"])
OFTEN = st.integers(0, 11).map(bool)


@pytest.fixture(scope="module")
def node(
    pki: Pki, token_keys: dict[str, TokenKey], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EvaluationNode]:
    published = msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((FileTokenSigner(token_keys["ES256"]).public,))))
    node = EvaluationNode(tmp_path_factory.mktemp("agree") / "replica", pki, published)
    node.open()
    for edp in EDPS:
        node.register(edp, Role.EDP, max_requests_per_second=10**9)
    for atp in ("atp-1", "atp-2"):
        node.register(atp, Role.ATP)
    yield node
    node.store.close()


@st.composite
def consents(draw: st.DrawFn, consent_id: str) -> GrantedConsent:
    start, end = draw(st.lists(DAYS, min_size=2, max_size=2, unique=True).map(sorted))
    return granted_consent(
        consent_id,
        draw(st.sampled_from([POINTS[:1], POINTS[:2]])),
        dataset_id=draw(st.sampled_from(DATASETS)),
        data_from=start,
        data_to=draw(st.sampled_from([end, None])),
        access_mode=draw(st.sampled_from([AccessMode.ENDURING, AccessMode.ENDURING, AccessMode.ONE_OFF])),
        purpose_code=draw(PURPOSES),
        edps=tuple(map(ClientId, EDPS)),
    )


@st.composite
def records(draw: st.DrawFn, granted: GrantedConsent) -> ConsentRecord:
    """The consent as it stands when it is asked about: mostly as it was granted."""
    changes: dict[str, Any] = {}
    if not draw(OFTEN):
        changes["state"] = draw(st.sampled_from(State))
    if not draw(OFTEN):
        changes["data_from"] = draw(DAYS)
    if not draw(OFTEN):
        changes["data_to"] = draw(DAYS)
    if not draw(OFTEN):
        changes["expires_at"] = draw(DAYS)
    if not draw(OFTEN):
        changes["edps"] = (ClientId("edp-2"),)
    if not draw(OFTEN):
        digest = meter_digest(METER_KEY, consent_key(granted.consent_id), POINTS[0])
        changes["meter_digests"] = (digest,)
    version = draw(st.integers(1, 9))
    return msgspec.structs.replace(granted.record, consent_version=version, **changes)


class Scene(msgspec.Struct):
    """One world and what is asked of it."""

    granted: tuple[GrantedConsent, ...]
    now: tuple[ConsentRecord, ...]
    edp: str
    atp_suspended: bool
    asked: list[dict[str, str]]
    share_id: str
    is_known: bool
    age: int


@st.composite
def shares(draw: st.DrawFn, granted: GrantedConsent) -> dict[str, str]:
    """Mostly inside what was granted."""
    record = granted.record
    start, end = record.data_from, record.data_to or UnixTime(record.data_from + DAY)
    if not draw(OFTEN):
        start, end = draw(st.lists(DAYS, min_size=2, max_size=2, unique=True).map(sorted))
    purpose = record.purpose_code if draw(OFTEN) else draw(PURPOSES)
    share = {
        "ccs_dataset_id": record.dataset_id if draw(OFTEN) else draw(st.sampled_from(DATASETS)),
        "ccs_mpxn": draw(st.sampled_from((*granted.meter_points, *granted.meter_points, POINTS[2]))),
        "ccs_from": format_utc(start),
        "ccs_to": format_utc(end),
    }
    return share | ({} if purpose is None else {"ccs_purpose_code": purpose})


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    granted = tuple(draw(consents(each)) for each in CONSENTS[: draw(st.integers(1, 2))])
    return Scene(
        granted,
        tuple(draw(records(each)) for each in granted),
        draw(st.sampled_from(["edp-1", "edp-1", "edp-1", "edp-2"])),
        not draw(OFTEN),
        draw(st.lists(st.sampled_from(granted).flatmap(shares), min_size=1, max_size=4)),
        draw(st.sampled_from(["s-1", "s-2"])),
        draw(st.booleans()),
        draw(st.sampled_from([0, 0, 300, 700])),
    )


def item(token: Minted, share: dict[str, str], share_id: str) -> dict[str, Any]:
    names = {"ccs_dataset_id": "dataset_id", "ccs_from": "from", "ccs_to": "to", "ccs_purpose_code": "purpose_code"}
    return {
        "subject": subject(token),
        "action": {"name": "share", "properties": {names[k]: v for k, v in share.items() if k in names}},
        "resource": {"type": "meter_point", "id": share["ccs_mpxn"]},
        "context": {"share_id": share_id},
    }


def prepare(node: EvaluationNode, scene: Scene, make_token: MakeToken, key: TokenKey) -> Minted:
    minted = make_token(
        edp=scene.edp, consents=scene.granted, signer=FileTokenSigner(key), now=UnixTime(node.clock.at - scene.age)
    )
    for granted, record in zip(scene.granted, scene.now, strict=True):
        node.apply(entry(0, EntryKind.CONSENT, consent_key(granted.consent_id), record))
    node.register("atp-1", Role.ATP, suspended=scene.atp_suspended)
    node.lookups.records.clear()
    node.claims.held.clear()
    verified = node.verified(minted, UnixTime(NOW - scene.age))
    if scene.is_known:
        node.memo.put(verified)
    elif scene.age < 600:
        node.lookups.records[minted.digest] = token_record(verified)
    return minted


async def by_introspection(node: EvaluationNode, minted: Minted, scene: Scene, share: dict[str, str]) -> Any:
    response = await node.ask(minted.token, ccs_share_id=scene.share_id, **share)
    return response.status if response.status != 200 else json.loads(response.body)["active"]


async def by_signed_answer(node: EvaluationNode, minted: Minted, scene: Scene, share: dict[str, str]) -> Any:
    headers = (FORM, (b"accept", b"application/token-introspection+jwt"))
    response = await node.ask(minted.token, headers=headers, ccs_share_id=scene.share_id, **share)
    if response.status != 200:
        return response.status
    assert response.content_type == b"application/token-introspection+jwt"
    assert node.answer_key.held is not None
    public = ECKey.import_key(msgspec.to_builtins(node.answer_key.held.public))
    claims = json.loads(jws.deserialize_compact(response.body, public, algorithms=["ES256"]).payload)
    return claims["token_introspection"]["active"]


def verdict(decision: dict[str, Any]) -> Any:
    error = decision["context"].get("error")
    return decision["decision"] if error is None else error["status"]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(scene=scenes())
async def test_all_surfaces_agree(
    node: EvaluationNode, make_token: MakeToken, token_keys: dict[str, TokenKey], scene: Scene
) -> None:
    minted = prepare(node, scene, make_token, token_keys["ES256"])
    items = [item(minted, share, scene.share_id) for share in scene.asked]
    introspected = [await by_introspection(node, minted, scene, share) for share in scene.asked]
    node.claims.held.clear()
    signed = [await by_signed_answer(node, minted, scene, share) for share in scene.asked]
    node.claims.held.clear()
    single = [verdict(await node.decide(each, single=True)) for each in items]
    node.claims.held.clear()
    batch = [verdict(each) for each in (await node.decide({"evaluations": items}))["evaluations"]]
    again = [verdict(each) for each in (await node.decide({"evaluations": items}))["evaluations"]]
    for each in batch:
        event(f"verdict {each}")
    assert introspected == signed == single == batch == again
