"""The real worker and feeder on a replica of their own, with nobody else in the world: last-known consent."""

import json
import shutil
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.clock import BootTime, UnixTime
from engine.consent.records import Certificate, ClientId, ParticipantRecord, Role, Thumbprint
from engine.decision.freshness import Bound
from engine.feed.entries import Entry, EntryKind
from engine.telemetry.host import SystemClock, boot_id
from engine.tokens.grants import consent_key
from engine.tokens.keys import JwkSet, PublishedKeys
from tests.support.mutual_tls import Authority, thumbprint_of
from tests.support.nodes import Caller, Running, eventually
from tests.support.pki import CONSENT_ID, ISSUER, MakeToken, granted_consent
from tests.support.replicas import INCARNATION, entry, open_store, participant_entry
from tests.support.replicas import bound as unproven

REAL = ("engine.node.worker", "engine.node.feeder")
DAY = 86_400


def fill(directory: Path, records: list[Entry], keys: bytes) -> None:
    """A replica that was current ten seconds ago."""
    clock = SystemClock()
    store = open_store(directory, boot_id=boot_id())
    generation = store.begin_generation()
    generation.seal(unproven(0))
    store.adopt(generation)
    store.put_keys(keys)
    numbered = [msgspec.structs.replace(item, seq=seq) for seq, item in enumerate(records, 1)]
    fresh_until, as_of = BootTime(clock.boot() - 8.0), UnixTime(clock.now() - 10)
    store.apply(numbered, Bound(INCARNATION, len(records), boot_id(), fresh_until, as_of))
    store.close()


def edp(name: str, files: tuple[Path, Path], *, handles_last_known: bool) -> ParticipantRecord:
    certificate = Certificate(Thumbprint(thumbprint_of(files[0])), UnixTime(int(time.time()) + DAY))
    return ParticipantRecord(
        ClientId(name), Role.EDP, suspended=False, certificates=(certificate,), handles_last_known=handles_last_known
    )


class World:
    """A node and the two EDPs it knows."""

    def __init__(self, directory: Path, make_token: MakeToken, keys: bytes) -> None:
        authority = Authority(directory)
        now = int(time.time())
        granted = granted_consent(granted_at=UnixTime(now - DAY), expires_at=UnixTime(now + DAY))
        self.token = make_token(consents=(granted,), now=UnixTime(now - 60)).token.decode()
        self.edp_1, self.edp_2 = authority.issue("edp-1"), authority.issue("edp-2")
        atp = ParticipantRecord(ClientId("atp-1"), Role.ATP, suspended=False, certificates=())
        records = [
            participant_entry(0, edp("edp-1", self.edp_1, handles_last_known=True)),
            participant_entry(0, edp("edp-2", self.edp_2, handles_last_known=False)),
            participant_entry(0, atp),
            entry(0, EntryKind.CONSENT, consent_key(CONSENT_ID), granted.record),
        ]
        fill(directory / "replica", records, keys)
        self.node = Running(directory, authority, {}, modules=REAL)
        self.contexts = {"edp-1": authority.client_context(self.edp_1), "edp-2": authority.client_context(self.edp_2)}

    def introspect(self, caller: str, token: str, path: bytes = b"/introspect") -> tuple[int, dict[str, Any]]:
        connection = Caller(self.node.described()["ports"]["introspection"], self.contexts[caller])
        try:
            body = urllib.parse.urlencode({"token": token}).encode()
            connection.socket.sendall(
                b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (path, len(body), body)
            )
            status, answer = connection.receive()
            return status, json.loads(answer)
        finally:
            connection.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make_token: MakeToken, token_signer: Any) -> Iterator[World]:
    keys = msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((token_signer.public,))))
    world = World(tmp_path_factory.mktemp("world"), make_token, keys)
    world.node.wait_ready()
    yield world
    world.node.stop()


def test_node_alone_answers_from_its_replica_as_last_known(world: World) -> None:
    status, answer = world.introspect("edp-1", world.token)
    assert (status, answer["active"], answer["ccs_freshness"]) == (200, True, "last_known")


def test_edp_that_does_not_handle_last_known_is_told_to_ask_again(world: World) -> None:
    assert world.introspect("edp-2", world.token) == (503, {"error": "temporarily_unavailable"})


def test_garbage_is_inactive(world: World) -> None:
    assert world.introspect("edp-1", "garbage") == (200, {"active": False})


def test_other_paths_are_not_found(world: World) -> None:
    assert world.introspect("edp-1", world.token, b"/elsewhere")[0] == 404


def test_status_says_last_known_and_what_is_applied(world: World) -> None:
    assert world.node.status("/readyz") == (200, {"state": "last_known", "draining": False})
    assert world.node.status("/readyz/current")[0] == 503
    page = world.node.status("/statusz")[1]
    assert (page["applied"], page["head"], page["incarnation"], page["replica_fault"]) == (4, 4, INCARNATION, "")
    assert all(child["cpu_seconds"] > 0 for child in page["children"])


def test_outcomes_and_positions_are_in_the_metrics(world: World) -> None:
    world.introspect("edp-1", world.token)
    eventually(lambda: b'ccs_introspections_total{outcome="active"}' in world.node.get("/metrics")[1])
    eventually(lambda: b"ccs_feed_applied_position 4.0" in world.node.get("/metrics")[1])
    eventually(lambda: b'ccs_feed_way{way="none"} 1.0' in world.node.get("/metrics")[1])
    metrics = world.node.get("/metrics")[1]
    assert b"ccs_feed_silence_seconds +Inf" in metrics
    assert b'ccs_feed_way{way="redis"} 0.0' in metrics
    assert b'ccs_node_state{state="last_known"} 1.0' in metrics
    eventually(lambda: b"ccs_answers_last_known_total" in world.node.get("/metrics")[1])


def test_no_token_is_in_the_log(world: World) -> None:
    world.introspect("edp-1", world.token)
    forged = world.token[:-8] + "AAAAAAAA"
    assert world.introspect("edp-1", forged) == (200, {"active": False})
    eventually(lambda: '"event":"security_event"' in world.node.said())
    assert world.token[:20] not in world.node.said()


def test_workers_start_anew_where_another_replica_was_put_in_the_place_of_theirs(world: World) -> None:
    """They would not believe what is earned in it. Last in this file: the feeder keeps the one that was moved away."""
    before = world.node.described()["pids"]["workers"]
    replica = world.node.config.parent / "replica"
    replica.rename(replica.with_name("moved-away"))
    shutil.copytree(replica.with_name("moved-away"), replica, symlinks=True)
    for pid in before:
        world.node.wait_replaced(pid)
    assert "another directory stands where the replica was" in world.node.said()
    status, answer = world.introspect("edp-1", world.token)
    assert (status, answer["active"], answer["ccs_freshness"]) == (200, True, "last_known")
