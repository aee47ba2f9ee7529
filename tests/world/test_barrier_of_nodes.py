"""A revocation while a node joins, freezes, is cloned or is cut off: what its caller is told, what each node answers.

Everything is real: a sandbox as `ccs up` starts it, more nodes beside it, SIGSTOP, copied disks, ways that are cut.
After each answer `effective` every node is asked; none may call the consent active in state `current`.
"""

import json
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.support.fleet import FleetNode
from tests.support.relay import Relay
from tests.support.sandbox import SOON, Running, eventually, gone, kill

WAIT_OUT_MS = 2_000  # what a silent node costs at least


class Site:
    """A sandbox with its own node, `node-2` that lives as long, and whatever a test starts beside them."""

    def __init__(self, directory: Path) -> None:
        self.sandbox = Running(directory / "var", workers=1, consents=5)
        self.nodes: list[FleetNode] = []
        self._directory = directory

    def start(self) -> "Site":
        self.sandbox.start()
        self.node("node-2").register().start().wait_current()
        return self

    def node(self, name: str) -> FleetNode:
        self.nodes.append(FleetNode(self.sandbox, name))
        return self.nodes[-1]

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        self.sandbox.stop()

    def revoke(self, consent_id: str, wait: float = 10) -> dict[str, Any]:
        """By the operator; the whole answer."""
        operator = self.sandbox.machine()
        path, key = f"/consents/{consent_id}/revoke?wait={wait}", {"idempotency-key": str(uuid4())}
        status, answer = operator.call("POST", path, {"reason": "withdrawn"}, key)
        operator.close()
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    def revocation(self, consent_id: str, client: str = "operator-1", wait: float = 0) -> tuple[int, Any]:
        caller = self.sandbox.machine(client)
        try:
            return caller.call("GET", f"/consents/{consent_id}/revocation?wait={wait}")
        finally:
            caller.close()

    def set_policy(self, on_silence: str, cap: int) -> None:
        form, key = {"on_silence": on_silence, "outage_cap": cap}, {"idempotency-key": str(uuid4())}
        operator = self.sandbox.machine()
        status, answer = operator.call("PUT", "/policy", form, key)
        operator.close()
        assert status == 200, answer

    def policy_position(self) -> int:
        """Where the policy stands in the ledger."""
        operator = self.sandbox.machine()
        _, answer = operator.call("GET", "/policy")
        operator.close()
        found: int = answer["position"]["seq"]
        return found

    def table(self) -> list[str]:
        """Of each instance that would be waited for now, its node."""
        (minted,) = self.sandbox.tokens()
        return sorted(node["node_id"] for node in self.revoke(minted["consent_id"], wait=0)["nodes"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def nodes(site: Site) -> Iterator[Site]:
    """The site with its two nodes current, and afterwards without what the test has left."""
    eventually(lambda: site.table() == ["node-1", "node-2"])
    site.nodes[0].wait_current()
    yield site
    for extra in site.nodes[1:]:
        extra.stop()
    del site.nodes[1:]


def said_wrong(answer: dict[str, Any]) -> bool:
    """What no node may say to a request sent after the revocation was effective."""
    return answer.get("active") is True and answer["ccs_freshness"] == "current"


def told(answer: dict[str, Any]) -> dict[str, list[bool]]:
    """Of each node: whether each of its instances acknowledged."""
    found: dict[str, list[bool]] = {}
    for node in answer["nodes"]:
        found.setdefault(node["node_id"], []).append(node["acknowledged"])
    return found


def holds(nodes: Sequence[FleetNode], token: str) -> None:
    assert not any(said_wrong(node.introspect(token)) for node in nodes)


def test_a_node_that_joins_is_never_current_without_what_was_revoked(nodes: Site) -> None:
    """Its first answer has a position that includes every revocation before; later ones it acknowledges."""
    minted = iter(nodes.sandbox.tokens(150))
    joiner, revoked = nodes.node("node-3").register().start(), []
    while not joiner.is_in("current"):
        revoked.append(next(minted))
        answer = nodes.revoke(revoked[-1]["consent_id"])
        assert answer["state"] == "effective"
        holds(nodes.nodes, revoked[-1]["token"])
    last = next(minted)
    assert joiner.introspect(last["token"])["ccs_freshness"] == "current"
    answer = nodes.revoke(last["consent_id"])
    assert (answer["how"], told(answer)["node-3"]) == ("acknowledged", [True])
    for each in [*revoked, last]:
        assert joiner.introspect(each["token"]) == {"status": 200, "active": False}


@pytest.mark.parametrize("part", ["all of it", "its feeder alone"])
def test_a_frozen_node_is_waited_out_and_named_and_wakes_up_stale(nodes: Site, part: str) -> None:
    """A request that reached it while it slept is answered when it wakes: by then it cannot say `current`."""
    (minted,) = nodes.sandbox.tokens()
    node, asking = nodes.nodes[0], ThreadPoolExecutor(1)
    caller = node.caller()
    assert caller.introspect(minted["token"])[1]["ccs_freshness"] == "current"
    frozen = node.pids if part == "all of it" else [node.about["pids"]["feeder"]]
    for pid in frozen:
        kill(pid, signal.SIGSTOP)
    try:
        answer = nodes.revoke(minted["consent_id"])
        asked: Future[tuple[int, dict[str, Any]]] = asking.submit(caller.introspect, minted["token"])
        assert (answer["state"], answer["how"]) == ("effective", "waited_out")
        assert told(answer) == {"node-1": [True], "node-2": [False]}
        assert answer["milliseconds"] >= WAIT_OUT_MS
        silent = next(each for each in answer["nodes"] if each["node_id"] == "node-2")
        assert silent["last_heard"].endswith("Z")
        if part != "all of it":
            status, last_known = asked.result(SOON)
            assert (status, last_known["active"], last_known["ccs_freshness"]) == (200, True, "last_known")
    finally:
        for pid in frozen:
            kill(pid, signal.SIGCONT)
    assert not said_wrong(asked.result(SOON)[1])
    eventually(lambda: node.introspect(minted["token"]) == {"status": 200, "active": False})
    node.wait_current()
    caller.close()
    asking.shutdown()


def test_a_feeder_that_is_started_again_is_an_instance_of_its_own(nodes: Site) -> None:
    """The one that was killed is waited for until it is struck off, or until its last answer is worth nothing."""
    minted = nodes.sandbox.tokens(3)
    node, before = nodes.nodes[0], nodes.revoke(minted[0]["consent_id"])["nodes"]
    victim = node.about["pids"]["feeder"]
    kill(victim)
    eventually(lambda: gone(victim))
    answer = nodes.revoke(minted[1]["consent_id"])
    holds(nodes.nodes, minted[1]["token"])
    assert (answer["state"], answer["how"]) == ("effective", "waited_out")
    eventually(lambda: nodes.table() == ["node-1", "node-2"] and node.is_in("current"))
    answer = nodes.revoke(minted[2]["consent_id"])
    assert (answer["how"], told(answer)) == ("acknowledged", {"node-1": [True], "node-2": [True]})
    assert {each["instance"] for each in before} != {each["instance"] for each in answer["nodes"]}


@pytest.mark.parametrize(("on_silence", "cap"), [("halt", 86_400), ("continue", 0)])
def test_under_halt_or_a_cap_of_zero_a_node_that_hears_nothing_answers_nobody(
    nodes: Site, on_silence: str, cap: int
) -> None:
    (minted,) = nodes.sandbox.tokens()
    node = nodes.nodes[0]
    nodes.set_policy(on_silence, cap)
    eventually(lambda: json.loads(node.get("/statusz")[1])["applied"] >= nodes.policy_position())
    assert node.introspect(minted["token"])["ccs_freshness"] == "current"
    feeder = node.about["pids"]["feeder"]
    kill(feeder, signal.SIGSTOP)
    try:
        eventually(lambda: node.introspect(minted["token"])["status"] == 503)
        assert node.get("/readyz/current")[0] == 503
    finally:
        kill(feeder, signal.SIGCONT)
        nodes.set_policy("continue", 86_400)
    eventually(lambda: node.introspect(minted["token"]).get("ccs_freshness") == "current")


def test_a_clone_of_a_running_node_is_a_node_of_its_own(nodes: Site) -> None:
    """Same name, same certificate, same disk: it must earn its own answers, and is waited for beside the original."""
    minted = nodes.sandbox.tokens(40)
    original = nodes.nodes[0]
    twin = original.clone("node-2-copy")
    nodes.nodes.append(twin)
    twin.start()
    eventually(lambda: bool(twin.about))
    for each in minted[:-1]:
        assert nodes.revoke(each["consent_id"])["state"] == "effective"
        holds([original, twin], each["token"])
        if twin.is_in("current") and original.is_in("current"):
            break
    original.wait_current()
    twin.wait_current()
    answer = nodes.revoke(minted[-1]["consent_id"])
    assert (answer["how"], told(answer)) == ("acknowledged", {"node-1": [True], "node-2": [True, True]})
    for node in (original, twin):
        assert node.introspect(minted[-1]["token"]) == {"status": 200, "active": False}


def test_a_clone_that_hears_nothing_is_never_current(nodes: Site) -> None:
    """Nobody reports for it: revocations become effective without it, and it says how old its knowledge is."""
    minted = nodes.sandbox.tokens(3)
    assert nodes.nodes[0].introspect(minted[0]["token"])["active"] is True
    redis, feed = Relay(1), Relay(1)  # to nowhere
    twin = nodes.nodes[0].clone("node-2-deaf").go_by(redis=redis.port, feed=feed.port)
    nodes.nodes.append(twin)
    for way in (redis, feed):
        way.hold()
    try:
        twin.start()
        eventually(lambda: "status" in twin.about.get("ports", {}) and twin.get("/healthz")[0] == 200)
        assert nodes.revoke(minted[0]["consent_id"])["how"] == "acknowledged"
        states = {json.loads(twin.get("/readyz")[1])["state"] for _ in range(50)}
        answers = [twin.introspect(each["token"]) for each in minted]
        assert "current" not in states | {answer.get("ccs_freshness") for answer in answers}
    finally:
        for way in (redis, feed):
            way.close()


@pytest.mark.parametrize(("cut", "how"), [("redis", "acknowledged"), ("redis and feed", "waited_out")])
def test_a_node_that_is_cut_off_is_waited_out_unless_one_way_is_left(nodes: Site, cut: str, how: str) -> None:
    about = nodes.sandbox.about
    redis, feed = Relay(Path(about["redis_url"].removeprefix("unix://"))), Relay(_port(about["feed_url"]))
    name = f"node-{uuid4().hex[:6]}"
    node = nodes.node(name).register().go_by(redis=redis.port, feed=feed.port).start().wait_current()
    (minted,) = nodes.sandbox.tokens()
    eventually(lambda: node.introspect(minted["token"]).get("ccs_freshness") == "current")
    try:
        for way in (redis, feed)[: 1 + ("feed" in cut)]:
            way.hold()
        answer = nodes.revoke(minted["consent_id"])
        holds([*nodes.nodes], minted["token"])
        assert (answer["state"], answer["how"]) == ("effective", how)
        assert told(answer) == {"node-1": [True], "node-2": [True], name: [how == "acknowledged"]}
        if how == "waited_out":
            known = node.introspect(minted["token"])
            assert (known["active"], known["ccs_freshness"]) == (True, "last_known")
        for way in (redis, feed):
            way.flow()
        eventually(lambda: node.introspect(minted["token"]) == {"status": 200, "active": False})
        node.wait_current()
    finally:
        node.stop()
        for way in (redis, feed):
            way.close()


def test_a_caller_who_does_not_wait_is_told_later_also_by_an_admin_that_was_restarted(nodes: Site) -> None:
    minted, other = nodes.sandbox.tokens(2, "--atp", "atp-1")
    consent_id, node = minted["consent_id"], nodes.nodes[0]
    node.freeze()
    try:
        answer = nodes.revoke(consent_id, wait=0)
        assert (answer["state"], answer["how"]) == ("recorded", "pending")
        assert told(answer)["node-2"] == [False]
        status, later = nodes.revocation(consent_id, "atp-1", wait=10)
        assert (status, later["state"], later["how"]) == (200, "effective", "waited_out")
    finally:
        node.thaw()
    assert nodes.revocation(consent_id) == (200, later)  # whoever asks, and again
    assert nodes.revocation(consent_id, "atp-2") == nodes.revocation(str(uuid4()), "atp-2")
    assert nodes.revocation(consent_id, "edp-1")[0] == 403
    assert nodes.revocation(other["consent_id"])[0] == 404
    victim = nodes.sandbox.about["pids"]["admin"]
    kill(victim)
    eventually(lambda: gone(victim) and nodes.sandbox.about["pids"]["admin"] != victim)
    found: list[Any] = []

    def answered() -> bool:
        try:
            found[:] = [nodes.revocation(consent_id, "atp-1", wait=10)]
        except OSError:  # it does not listen yet
            return False
        return True

    eventually(answered)
    assert found[0][0] == 200
    assert (found[0][1]["state"], found[0][1]["position"]) == ("effective", later["position"])


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
