"""P6: what a node says while it is cut off never exceeds the consent's own period, the cap, or an end it has heard of.

The endpoints and the replica are the real ones; only clocks are moved by hand. Whatever is heard, however long nothing
is heard, whatever the policy says and however the wall clock jumps: each surface is held against a plain model of what
the node has heard and when it asked.
"""

import base64
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from admin.authorization.minting import Minted
from admin.pki.keys import FileTokenSigner
from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import OnSilence, PolicyRecord, Role
from engine.consent.states import State
from engine.decision import freshness as freshness_module
from engine.decision.freshness import MAX_SILENCE, Bound, FreshnessState
from engine.feed.entries import Entry, EntryKind
from engine.tokens.grants import consent_key
from engine.tokens.keys import JwkSet, PublishedKeys
from tests.support.endpoint import FORM
from tests.support.evaluations import ACTION, RESOURCE, EvaluationNode, subject
from tests.support.pki import CONSENT_ID, DAY, ISSUER, NOW, MakeToken, Pki, consent_record
from tests.support.replicas import BOOT, OTHER_BOOT, entry, policy_entry

LIFE = Seconds(400.0 * DAY)  # of the token: here it must not be what ends an answer
FORBIDDEN = (State.REVOKED, State.TERMINATED_BY_DISPUTE, State.EXPIRED, State.SUPERSEDED, State.CONSUMED)


class World:
    """A node, and what it may say: the consent as it was last heard of, and when the newest question was asked."""

    def __init__(self, node: EvaluationNode, minted: Minted) -> None:
        self.node = node
        self.minted = minted
        self.consent = consent_record()
        self.policy = PolicyRecord()
        self.handles = True
        self.asked_boot = self.asked_wall = 0.0
        self.rebooted = False
        self.said: Counter[FreshnessState | int] = Counter()

    def prove(self) -> None:
        """A question was answered, and everything up to its position is applied."""
        clock = self.node.clock
        self.asked_boot, self.asked_wall, self.rebooted = clock.up, clock.at, False
        self._put()

    def hear(self, kind: EntryKind, key: bytes, record: msgspec.Struct) -> None:
        """An entry that came without an answer: what was known as of then moves on, its time does not."""
        self._put(entry(0, kind, key, record))

    def _put(self, *entries: Entry) -> None:
        boot = OTHER_BOOT if self.rebooted else BOOT
        until = BootTime(self.asked_boot + MAX_SILENCE)
        bound = Bound("00000000000000a1", 0, boot, until, UnixTime(int(self.asked_wall)))
        self.node.apply(*entries, bound=bound)

    def age(self) -> float:
        """Since the newest answered question was asked, as far as this machine can tell."""
        clock = self.node.clock
        return clock.at - self.asked_wall if self.rebooted else clock.up - self.asked_boot

    def state(self) -> FreshnessState:
        """By the words of the promise, worked out anew."""
        age = self.age()
        if age < 0 or (age >= self.policy.outage_cap and (self.rebooted or age >= MAX_SILENCE)):
            return FreshnessState.BLIND
        return FreshnessState.CURRENT if age < MAX_SILENCE and not self.rebooted else FreshnessState.LAST_KNOWN

    def hold(self) -> None:
        """Ask on every surface, and hold the answers against what was heard."""
        for ask in (self._plain, self._signed, self._batch, self._single):
            status, active, told = ask()
            state = self.state()
            served = state is FreshnessState.CURRENT or (
                state is FreshnessState.LAST_KNOWN and self.handles and self.policy.on_silence is OnSilence.CONTINUE
            )
            assert status == (200 if served else 503), ask
            self.said[status] += 1
            if active:
                self._hold_yes(state, told)
                self.said[state] += 1

    def _hold_yes(self, state: FreshnessState, told: dict[str, Any]) -> None:
        now, consent = self.node.clock.at, self.consent
        assert consent.state is State.ACTIVE
        assert now < consent.expires_at
        assert told["ccs_freshness"] == state
        assert told["ccs_as_of"] == self.asked_wall
        until = told["ccs_last_known_until"]
        assert until <= consent.expires_at
        assert until <= self.asked_wall + self.policy.outage_cap
        assert until <= now + self.policy.outage_cap - self.age() + 1e-6
        if state is FreshnessState.LAST_KNOWN:
            assert self.age() < self.policy.outage_cap
            assert not isinstance(until, float)

    def _plain(self) -> tuple[int, bool, dict[str, Any]]:
        answer = trio.run(self.node.ask, self.minted.token)
        said = json.loads(answer.body)
        return answer.status, said.get("active", False), said

    def _signed(self) -> tuple[int, bool, dict[str, Any]]:
        headers = (FORM, (b"accept", b"application/token-introspection+jwt"))
        answer = trio.run(partial(self.node.ask, self.minted.token, headers=headers))
        if answer.status != 200:
            return answer.status, False, {}
        payload = answer.body.split(b".")[1]
        said = json.loads(base64.urlsafe_b64decode(payload + b"=="))["token_introspection"]
        return 200, said["active"], said

    def _batch(self) -> tuple[int, bool, dict[str, Any]]:
        body = {"action": ACTION, "resource": RESOURCE, "evaluations": [{"subject": subject(self.minted)}]}
        answer = trio.run(self.node.post, body)
        if answer.status != 200:
            return answer.status, False, {}
        said = json.loads(answer.body)
        (item,) = said["evaluations"]
        return 200, item["decision"], item["context"] | said["context"]

    def _single(self) -> tuple[int, bool, dict[str, Any]]:
        body = {"subject": subject(self.minted), "action": ACTION, "resource": RESOURCE}
        answer = trio.run(partial(self.node.post, body, single=True))
        if answer.status != 200:
            return answer.status, False, {}
        said = json.loads(answer.body)
        return 200, said["decision"], said["context"]


class Wait(msgspec.Struct, frozen=True):
    """Time passes, and somebody may set the wall clock."""

    seconds: float
    jump: int = 0

    def __call__(self, world: World) -> None:
        clock = world.node.clock
        clock.up = BootTime(clock.up + self.seconds)
        clock.at = UnixTime(int(clock.at + self.seconds) + self.jump)


class Change(msgspec.Struct, frozen=True):
    """The consent changes, and the node hears of it, with an answer or without."""

    fields: dict[str, Any]
    proven: bool

    def __call__(self, world: World) -> None:
        world.consent = msgspec.structs.replace(
            world.consent, consent_version=world.consent.consent_version + 1, **self.fields
        )
        world.hear(EntryKind.CONSENT, consent_key(CONSENT_ID), world.consent)
        if self.proven:
            world.prove()


class Policy(msgspec.Struct, frozen=True):
    """The operator's policy, heard by an entry."""

    on_silence: OnSilence
    cap: float

    def __call__(self, world: World) -> None:
        world.policy = PolicyRecord(self.on_silence, Seconds(self.cap))
        item = policy_entry(0, world.policy)
        world.hear(item.kind, item.key, world.policy)


class Handles(msgspec.Struct, frozen=True):
    """Whether the EDP is registered as handling `last_known`."""

    handles: bool

    def __call__(self, world: World) -> None:
        world.handles = self.handles
        world.node.register("edp-1", Role.EDP, handles_last_known=self.handles, max_requests_per_second=10**6)
        world.prove()  # the support's registration proves the bound as well


def prove(world: World) -> None:
    """The feed answers."""
    world.prove()


def reboot(world: World) -> None:
    """The machine restarts: its boot clock begins again, and the bound is of the boot before."""
    world.rebooted = True
    world._put()


WAITS = st.sampled_from([0.0, 0.4, 1.9, 2.0, 2.1, 59.0, 60.0, 3_600.0, 86_399.0, 86_400.0, 90_000.0])
ENDS = st.sampled_from([NOW + 1, NOW + 3, NOW + 61, NOW + 90_000, NOW + 365 * DAY]).map(UnixTime)
STEPS = st.one_of(
    st.builds(Wait, WAITS, st.sampled_from([0, 0, 0, 5, -5, 100_000, -100_000])),
    st.builds(
        Change,
        st.one_of(
            st.fixed_dictionaries({"expires_at": ENDS}),
            st.fixed_dictionaries({"state": st.sampled_from([State.ACTIVE, State.ACTIVE, *FORBIDDEN])}),
        ),
        st.booleans(),
    ),
    st.builds(Policy, st.sampled_from(list(OnSilence)), st.sampled_from([0.0, 1.0, 60.0, 3_600.5, 86_400.0])),
    st.builds(Handles, st.booleans()),
    st.just(prove),
    st.just(reboot),
)


@contextmanager
def world_of(pki: Pki, make_token: MakeToken, signer: FileTokenSigner) -> Iterator[World]:
    minted = make_token(lifetime=LIFE)
    keys = msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((signer.public,))))
    with tempfile.TemporaryDirectory() as directory:
        node = EvaluationNode(Path(directory), pki, keys)
        try:
            node.open()
            node.register("atp-1", Role.ATP)
            node.record(minted)
            world = World(node, minted)
            Handles(handles=True)(world)
            Change({}, proven=True)(world)
            yield world
        finally:
            node.store.close()


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(STEPS, max_size=12))
def test_no_answer_exceeds_what_was_heard(
    pki: Pki, make_token: MakeToken, token_signer: FileTokenSigner, steps: list[Any]
) -> None:
    with world_of(pki, make_token, token_signer) as world:
        world.hold()
        for step in steps:
            step(world)
            world.hold()


def test_each_limit_bites_at_its_second(pki: Pki, make_token: MakeToken, token_signer: FileTokenSigner) -> None:
    """The property above is not empty: yes up to each limit, and none from there on."""

    def said_after(*steps: Any) -> tuple[int, bool]:
        with world_of(pki, make_token, token_signer) as world:
            for step in steps:
                step(world)
            world.hold()
            return world._plain()[:2]

    cut = Change({"expires_at": UnixTime(NOW + 90)}, proven=False)
    revoked = Change({"state": State.REVOKED}, proven=False)
    hour = Policy(OnSilence.CONTINUE, 3_600.0)
    assert said_after(Wait(3_599.0), hour) == (200, True)
    assert said_after(Wait(3_600.0), hour) == (503, False)
    assert said_after(cut, Wait(89.0)) == (200, True)
    assert said_after(cut, Wait(90.0)) == (200, False)
    assert said_after(Wait(30.0)) == (200, True)
    assert said_after(Wait(30.0), revoked) == (200, False)
    assert said_after(Wait(30.0), Policy(OnSilence.HALT, 86_400.0)) == (503, False)
    assert said_after(Handles(handles=False), Wait(30.0)) == (503, False)
    assert said_after(reboot, Wait(30.0)) == (200, True)
    assert said_after(reboot, Wait(86_400.0)) == (503, False)


def test_a_cap_of_zero_is_halt(pki: Pki, make_token: MakeToken, token_signer: FileTokenSigner) -> None:
    """A safety-first setting: current answers go on, and the moment they end nobody is answered."""
    with world_of(pki, make_token, token_signer) as world:
        Policy(OnSilence.CONTINUE, 0.0)(world)
        world.hold()
        status, active, told = world._plain()
        assert (status, active, told["ccs_freshness"]) == (200, True, "current")
        assert told["ccs_last_known_until"] == told["ccs_as_of"]
        Wait(2.0)(world)
        assert world._plain()[:2] == world._batch()[:2] == world._single()[:2] == (503, False)


def test_a_node_that_forgets_the_cap_is_found(
    pki: Pki, make_token: MakeToken, token_signer: FileTokenSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is not the code: a table that takes everything old for last known fails it."""
    table = dict(freshness_module.STATES)
    table[freshness_module.Finding.BEYOND_CAP] = FreshnessState.LAST_KNOWN
    monkeypatch.setattr(freshness_module, "STATES", table)
    with world_of(pki, make_token, token_signer) as world:
        Wait(86_400.0)(world)
        with pytest.raises(AssertionError):
            world.hold()
