"""A worker that has answered before answers as one that just started, whatever happened in between.

What a worker remembers may make it faster, never different: after any sequence of writes, waiting and questions, a
long-lived endpoint and a fresh one on the same replica give the same answers to the byte.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from admin.authorization.minting import Minted
from admin.pki.keys import FileTokenSigner, new_token_key
from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import ConsentId, FallbackSuspension, OnSilence, PolicyRecord, Role
from engine.consent.states import State
from engine.listener.http1 import Request, Response
from engine.tokens.grants import consent_key
from engine.tokens.keys import JwkSet, PublishedKeys
from engine.tokens.verify import VerifiedToken, verify
from tests.support.endpoint import FORM
from tests.support.evaluations import ACTION, HEAD, RESOURCE, EvaluationNode, subject
from tests.support.pki import (
    CONSENT_ID,
    DAY,
    ISSUER,
    METER_KEY,
    METER_POINT,
    NOW,
    MakeToken,
    Pki,
    consent_record,
    granted_consent,
    key_set_of,
)
from tests.support.replicas import policy_entry, revocation_entry

OTHER_CONSENT = ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b99")
SHARE = {
    "ccs_dataset_id": "hh-electricity-import",
    "ccs_mpxn": METER_POINT,
    "ccs_from": "2026-10-01T00:00:00Z",
    "ccs_to": "2026-11-01T00:00:00Z",
}
Step = Callable[["World"], None]


class World:
    """One replica, one endpoint that lives through it all, and another for each question."""

    def __init__(
        self, node: EvaluationNode, minted: list[Minted], revocation_keys: list[bytes], keys: tuple[bytes, bytes]
    ) -> None:
        self.node = node
        self.minted = minted
        self.tokens = [token.token for token in minted]
        self.revocation_keys = revocation_keys
        self.keys = keys

    def ask(self, token: int, caller: str, parameters: dict[str, str]) -> None:
        body = urlencode({"token": self.tokens[token].decode()} | parameters).encode()
        request = Request(b"POST", b"/introspect", (FORM,), body, keep_alive=True)
        peer = self.node.peer(caller)
        # twice, because the second time may go another way; the fresh one never has a second time
        for _ in range(2):
            lasting = settled(self.node.endpoint(request, peer))
            assert lasting == settled(self.node.make_endpoint()(request, peer))

    def ask_for_all(self, caller: str, meter_point: str) -> None:
        """The same of batches: one item for each token."""
        items = [{"subject": subject(minted), "resource": RESOURCE | {"id": meter_point}} for minted in self.minted]
        body = json.dumps({"action": ACTION, "evaluations": items}, separators=(",", ":")).encode()
        request = Request(b"POST", b"/access/v1/evaluations", HEAD, body, keep_alive=True)
        peer = self.node.peer(caller)
        for _ in range(2):
            lasting = judged(settled(self.node.evaluations.batch(request, peer)))
            assert lasting == judged(settled(self.node.make_evaluations().batch(request, peer)))


def judged(answer: Response) -> tuple[int, Any]:
    """Status and decisions; each answer has an id of its own."""
    said = json.loads(answer.body)
    if isinstance(said, dict):  # an error is a text
        said.get("context", {}).pop("decision_id", None)
    return answer.status, said


def settled(answer: Any) -> Response:
    if isinstance(answer, Response):
        return answer

    async def wait() -> Response:
        return await answer

    return trio.run(wait)


def grant(consent_id: str, fields: dict[str, object], world: World) -> None:
    world.node.grant(consent_record(consent_id, **fields), consent_key(consent_id))


def register(client_id: str, role: Role, fields: dict[str, object], world: World) -> None:
    world.node.register(client_id, role, max_requests_per_second=1_000_000, **fields)


def set_policy(cap: float, on_silence: OnSilence, world: World) -> None:
    world.node.apply(policy_entry(0, PolicyRecord(outage_cap=Seconds(cap), on_silence=on_silence)))


def revoke_token(token: int, world: World) -> None:
    world.node.apply(revocation_entry(0, world.revocation_keys[token], NOW + DAY))


def wait(wall: int, boot: float, world: World) -> None:
    clock = world.node.clock
    clock.at = UnixTime(clock.at + wall)
    clock.up = BootTime(clock.up + boot)


def hear(world: World) -> None:
    world.node.apply()


def change_keys(which: int, world: World) -> None:
    world.node.store.put_keys(world.keys[which])


def start_over(world: World) -> None:
    world.node.seq = 0
    world.node.open()
    populate(world)


def populate(world: World) -> None:
    for client_id, role in (("edp-1", Role.EDP), ("edp-2", Role.EDP), ("atp-1", Role.ATP)):
        register(client_id, role, {}, world)
    for consent_id in (CONSENT_ID, OTHER_CONSENT):
        grant(consent_id, {}, world)


IDS = st.sampled_from([CONSENT_ID, str(OTHER_CONSENT)])
CONSENTS = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from([State.ACTIVE, State.REVOKED, State.EXPIRED]),
        "consent_version": st.integers(1, 4),
        "expires_at": st.sampled_from([NOW + 1, NOW + 3, NOW + DAY, NOW + 365 * DAY]).map(UnixTime),
        "data_to": st.sampled_from([None, UnixTime(NOW - 40 * DAY), UnixTime(NOW + DAY)]),
    },
)
PARTICIPANTS = st.fixed_dictionaries(
    {},
    optional={
        "suspended": st.booleans(),
        "handles_last_known": st.booleans(),
        "fallback_suspended": st.sampled_from([None, None, FallbackSuspension(NOW, 7)]),
    },
)
CLIENTS = st.sampled_from([("edp-1", Role.EDP), ("edp-2", Role.EDP), ("atp-1", Role.ATP)])
ASKING = st.builds(
    lambda token, caller, parameters: lambda world: world.ask(token, caller, parameters),
    st.integers(0, 2),
    st.sampled_from(["edp-1", "edp-1", "edp-1", "edp-2"]),
    st.sampled_from([{}, {}, SHARE, SHARE | {"ccs_to": "2027-11-01T00:00:00Z"}, {"client_id": "edp-1"}]),
)
ASKING_FOR_ALL = st.builds(
    lambda caller, meter_point: lambda world: world.ask_for_all(caller, meter_point),
    st.sampled_from(["edp-1", "edp-1", "edp-2"]),
    st.sampled_from([METER_POINT, METER_POINT, "mpan:2000000000024"]),
)
HAPPENING = st.one_of(
    st.builds(partial, st.just(grant), IDS, CONSENTS),
    st.builds(lambda client, fields: partial(register, *client, fields), CLIENTS, PARTICIPANTS),
    st.builds(partial, st.just(set_policy), st.sampled_from([1.5, 86_400.0]), st.sampled_from(list(OnSilence))),
    st.builds(partial, st.just(revoke_token), st.integers(0, 2)),
    st.builds(partial, st.just(wait), st.integers(-1, 4), st.sampled_from([0.0, 0.3, 1.0, 2.5])),
    st.just(hear),
    st.builds(partial, st.just(change_keys), st.integers(0, 1)),
    st.just(start_over),
)


@contextmanager
def world_of(pki: Pki, make_token: MakeToken, signer: FileTokenSigner) -> Iterator[World]:
    one, other = granted_consent(), granted_consent(str(OTHER_CONSENT))
    minted = [make_token(consents=consents) for consents in ((one,), (other,), (one, other))]
    keys = tuple(
        msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((which.public,))))
        for which in (signer, FileTokenSigner(new_token_key("ES256")))
    )
    verified = [verify(token.token, key_set_of(signer), METER_KEY, NOW) for token in minted]
    revocation_keys = [token.revocation_key for token in verified if isinstance(token, VerifiedToken)]
    with tempfile.TemporaryDirectory() as directory:
        node = EvaluationNode(Path(directory), pki, keys[0])
        try:
            world = World(node, minted, revocation_keys, (keys[0], keys[1]))
            start_over(world)
            node.warm(*minted)
            node.record(*minted)
            yield world
        finally:
            node.store.close()


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(st.one_of(ASKING, ASKING_FOR_ALL, HAPPENING), max_size=25))
def test_a_lasting_endpoint_answers_as_a_fresh_one(
    pki: Pki, make_token: MakeToken, token_signer: FileTokenSigner, steps: list[Step]
) -> None:
    with world_of(pki, make_token, token_signer) as world:
        for step in steps:
            step(world)
        for token in range(3):
            world.ask(token, "edp-1", {})
        world.ask_for_all("edp-1", METER_POINT)


def test_the_short_way_is_taken_and_survives_foreign_writes(
    pki: Pki, make_token: MakeToken, token_signer: FileTokenSigner
) -> None:
    with world_of(pki, make_token, token_signer) as world:
        said_again = world.node.endpoint.said_again
        world.ask(0, "edp-1", {})  # verified, then learned
        world.ask(0, "edp-1", {})
        assert said_again.total == 2
        grant(str(OTHER_CONSENT), {"consent_version": 2}, world)
        world.ask(0, "edp-1", SHARE)
        assert said_again.total == 4
        grant(CONSENT_ID, {"state": State.REVOKED}, world)
        world.ask(0, "edp-1", {})
        assert said_again.total == 4


HAPPENINGS: dict[str, list[Step]] = {
    "its EDP is suspended": [partial(register, "edp-1", Role.EDP, {"suspended": True})],
    "its ATP is suspended": [partial(register, "atp-1", Role.ATP, {"suspended": True})],
    "its ATP is no ATP any more": [partial(register, "atp-1", Role.EDP, {})],
    "its key has left the set": [partial(change_keys, 1)],
    "the token is revoked": [partial(revoke_token, 0)],
    "the consent is revoked": [partial(grant, CONSENT_ID, {"state": State.REVOKED})],
    "the consent is renewed": [partial(grant, CONSENT_ID, {"consent_version": 2})],
    "the consent is cut": [partial(grant, CONSENT_ID, {"data_to": UnixTime(NOW - DAY)})],
    "the consent ends sooner, and that time comes": [
        partial(grant, CONSENT_ID, {"expires_at": UnixTime(NOW + 2)}),
        lambda world: world.ask(0, "edp-1", {}),
        partial(wait, 3, 0.1),
    ],
    "the token's time is over": [partial(wait, 2 * DAY, 0.5)],
    "the node hears nothing": [partial(wait, 3, 3.0)],
    "the node hears nothing and then something": [partial(wait, 3, 3.0), hear],
    "the replica is another one": [start_over],
    "the replica is another one, without the consent": [
        start_over,
        partial(grant, CONSENT_ID, {"state": State.EXPIRED}),
    ],
    "nothing happens": [],
    "something else is written": [partial(grant, str(OTHER_CONSENT), {"consent_version": 3})],
}


@pytest.mark.parametrize("parameters", [{}, SHARE], ids=["token", "share"])
@pytest.mark.parametrize("happening", HAPPENINGS)
def test_what_happened_is_not_overlooked(
    pki: Pki, make_token: MakeToken, token_signer: FileTokenSigner, happening: str, parameters: dict[str, str]
) -> None:
    with world_of(pki, make_token, token_signer) as world:
        world.ask(0, "edp-1", parameters)
        world.ask(0, "edp-1", parameters)
        world.ask_for_all("edp-1", METER_POINT)
        assert world.node.endpoint.said_again.total > 0
        for step in HAPPENINGS[happening]:
            step(world)
        world.ask(0, "edp-1", parameters)
        world.ask_for_all("edp-1", METER_POINT)
