"""`ccs consents end-all` and the service killed in the middle, again and again: real processes, a real ledger, and what
all receivers are told in the end."""

import base64
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import trio

from admin.cli.seed import seed
from admin.cli.up_settings import write_pusher_settings
from admin.config import load_admin_config
from admin.consents.end_all import STEP
from admin.ledger.sql import open_ledger
from engine.consent.records import ConsentId
from engine.events.sets import CONSENT_TYPES, PARTY_SUSPENDED
from engine.telemetry.host import SystemClock
from tests.support.lone_admin import ROOT, WITHIN, LoneAdmin
from tests.support.outboxes import House
from tests.support.sandbox import Caller, Running, eventually

CONSENTS = {"atp-1": 1_200, "atp-2": 600}
EDPS = ("edp-1", "edp-2", "edp-3")
KILLS = 3
DICE = random.Random()  # noqa: S311 - when to kill: other moments in each run
REVOKED = CONSENT_TYPES + "consent-revoked"
ANSWERS_NOT = 3  # exit code of the command


def edp_of(number: int) -> str:
    return EDPS[number % len(EDPS)]


class Inbox:
    """A receiver that polls: all that came, and what it has not acknowledged yet."""

    def __init__(self, client_id: str, path: str) -> None:
        self.client_id = client_id
        self.came: dict[str, set[str]] = {}
        self._path = path
        self._owed: list[str] = []

    def poll(self, caller: Caller, *, forgetful: bool = False) -> int:
        """How many came. forgetful: half of them are not acknowledged by the next poll, and so come again."""
        body = {"returnImmediately": True, "maxEvents": 500, "ack": self._owed}
        status, said = caller.call("POST", self._path, body)
        assert status == 200, said
        for jti, compact in said["sets"].items():
            self.came.setdefault(jti, set()).add(compact)
        self._owed = list(said["sets"])[:: 2 if forgetful else 1]
        return len(said["sets"])

    def subjects(self, kind: str) -> Counter[str]:
        """Of the events of this kind that came, each id counted once."""
        claims = [claims_of(compact) for compacts in self.came.values() for compact in compacts]
        assert all(one["aud"] == self.client_id for one in claims)
        return Counter(one["sub_id"]["id"] for one in claims if kind in one["events"])


def claims_of(compact: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(compact.split(".")[1] + "=="))
    return found


class Stand:
    """The admin application and a pusher; ATPs with their consents; a poll stream for everybody."""

    def __init__(self, directory: Path) -> None:
        self.admin = LoneAdmin(directory / "var")
        self.granted: dict[str, list[ConsentId]] = {}
        self.inboxes: dict[str, Inbox] = {}
        self.suspended: set[str] = set()
        self._sandbox = Running(self.admin.folder.directory)  # for its calls
        self._pusher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.admin.start()
        seed(self.admin.folder.directory, consents=0)
        self._start_pusher()
        trio.run(self._grant)
        for name in (*EDPS, *CONSENTS):
            stream = self.call(name, "/ssf/streams", {})
            self.inboxes[name] = Inbox(name, f"/ssf/poll/{stream['stream_id']}")
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._pusher, self.admin.process):
            if process is not None:
                process.kill()
                process.wait(WITHIN)

    def _start_pusher(self) -> None:
        settings = write_pusher_settings(self.admin.folder, self.admin.config)
        settings.write_text(settings.read_text().replace("[outgoing]\n", "[outgoing]\nbulk-rate = 100000.0\n"))
        command = [sys.executable, "-m", "admin.cli", "pusher", "--config", str(settings)]
        with (self.admin.folder.logs / "pusher.log").open("ab") as log:
            self._pusher = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    async def _grant(self) -> None:
        """Beside the service, by the ledger's own code; before there are streams, so that nobody is told."""
        clock = SystemClock()
        config = load_admin_config(self.admin.folder.settings / "admin.toml").ledger
        async with open_ledger(config, clock, wall=clock.wall) as ledger:
            house = House(ledger, clock)  # type: ignore[arg-type]  # has what a house reads of its clock
            for atp, count in CONSENTS.items():
                events = [house.granting(atp, (edp_of(number),)) for number in range(count)]
                await house.write(*events)
                self.granted[atp] = [one.consent_id for one in events]

    def call(self, client: str, path: str, body: object = None) -> Any:
        caller = Caller(self._sandbox.about["admin_mtls_url"], self._sandbox.context(client))
        try:
            status, said = caller.call("POST", path, body, {"idempotency-key": str(uuid.uuid4())})
        finally:
            caller.close()
        assert status in (200, 201), said
        return said

    def poll(self, *, forgetful: bool = False) -> int:
        """Let everybody who may call fetch what there is."""
        came = 0
        for name in self.inboxes.keys() - self.suspended:
            inbox = self.inboxes[name]
            caller = Caller(self._sandbox.about["admin_mtls_url"], self._sandbox.context(name))
            try:
                came += inbox.poll(caller, forgetful=forgetful)
            finally:
                caller.close()
        return came

    def suspend(self, atp: str) -> None:
        self.call("operator-1", f"/participants/{atp}/suspend")
        self.suspended.add(atp)

    def reinstate(self, atp: str) -> None:
        """What it was told meanwhile waits for it."""
        self.call("operator-1", f"/participants/{atp}/reinstate")
        self.suspended.discard(atp)

    def end_all(self, atp: str) -> "subprocess.Popen[bytes]":
        words = ("consents", "end-all", "--client", atp, "--reason", "security", "--rest", "0", "--json")
        return subprocess.Popen(self.admin.argv(*words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ended(self, atp: str) -> int:
        """How many of its consents have an end in the ledger."""
        subjects = {f"consent:{consent_id}" for consent_id in self.granted[atp]}
        rows = self.admin.rows("SELECT subject FROM events WHERE tag = 'consent.revoked'")
        return sum(subject in subjects for (subject,) in rows)

    def wait_into(self, atp: str) -> None:
        """Until some more have ended, or all, at no particular moment of a step."""
        more = DICE.randint(1, CONSENTS[atp] // (KILLS + 1) - 2 * STEP)
        before = self.ended(atp)
        eventually(lambda: self.ended(atp) >= min(before + more, CONSENTS[atp]), WITHIN)
        time.sleep(DICE.uniform(0.0, 0.03))

    def check(self, atp: str) -> None:
        """Each consent has ended once, and whoever is concerned was told once, with the same bytes however often."""
        rows = self.admin.rows("SELECT subject, version FROM events WHERE tag = 'consent.revoked'")
        own = {f"consent:{consent_id}" for consent_id in self.granted[atp]}
        assert sorted(row for row in rows if row[0] in own) == sorted((subject, 2) for subject in own)
        concerned = {name: Counter[str]() for name in self.inboxes}
        concerned[atp].update(self.granted[atp])
        for number, consent_id in enumerate(self.granted[atp]):
            concerned[edp_of(number)][consent_id] += 1
        eventually(lambda: self._has_come(concerned), WITHIN)
        eventually(lambda: self.poll() == 0, WITHIN)
        for name, consents in concerned.items():
            inbox = self.inboxes[name]
            assert {len(compacts) for compacts in inbox.came.values()} <= {1}, "the same bytes each time"
            assert {one: count for one, count in inbox.subjects(REVOKED).items() if one in own_ids(own)} == consents
            assert inbox.subjects(PARTY_SUSPENDED)[atp] == (1 if name in (*EDPS, atp) else 0)
            assert {jti_of(self.issuer, name, consent_id) for consent_id in consents} <= inbox.came.keys()
        self._check_whole()

    def _has_come(self, concerned: dict[str, Counter[str]]) -> bool:
        self.poll()
        return all(
            jti_of(self.issuer, name, consent_id) in self.inboxes[name].came
            for name, consents in concerned.items()
            for consent_id in consents
        )

    def _check_whole(self) -> None:
        verified = self.admin.ccs("ledger", "verify", "--json")
        assert verified.returncode == 0, verified.stderr
        assert json.loads(verified.stdout)["whole"]

    @property
    def issuer(self) -> str:
        found: str = self._sandbox.about["issuer"]
        return found


def own_ids(subjects: set[str]) -> set[str]:
    return {subject.removeprefix("consent:") for subject in subjects}


def jti_of(issuer: str, receiver: str, consent_id: str) -> str:
    """By the profile's words, not by our code."""
    parts = ("ccs-set-v1", issuer, receiver, REVOKED, consent_id, "2")
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return "c1." + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("stand")) as stand:
        yield stand


def finished(command: "subprocess.Popen[bytes]") -> tuple[int, bytes]:
    said, wrong = command.communicate(timeout=WITHIN)
    return command.returncode, said or wrong


def test_the_service_is_killed_in_the_middle_and_begun_anew(stand: Stand) -> None:
    atp = "atp-1"
    stand.suspend(atp)
    for _ in range(KILLS):
        command = stand.end_all(atp)
        stand.wait_into(atp)
        stand.admin.stop(signal.SIGKILL)
        code, said = finished(command)
        assert (code, b"does not answer" in said) == (ANSWERS_NOT, True)
        ended = stand.ended(atp)
        assert 0 < ended < CONSENTS[atp]
        assert ended % STEP == 0, "each step is there as a whole or not at all"
        stand.admin.start()
        stand.poll(forgetful=True)
    code, said = finished(stand.end_all(atp))
    assert (code, json.loads(said)["ended"]) == (0, CONSENTS[atp] - ended)
    stand.reinstate(atp)
    stand.check(atp)


def test_the_command_is_killed_in_the_middle_and_run_again(stand: Stand) -> None:
    """What the service had begun for it goes on beside the next one."""
    atp = "atp-2"
    stand.suspend(atp)
    left = list[int]()
    for _ in range(KILLS):
        command = stand.end_all(atp)
        stand.wait_into(atp)
        command.kill()
        left.append(CONSENTS[atp] - stand.ended(atp))
        assert finished(command)[0] in (-signal.SIGKILL, 0), "0: it had come to its end"
        stand.poll(forgetful=True)
    assert CONSENTS[atp] > left[0] > 0
    assert finished(stand.end_all(atp))[0] == 0
    stand.reinstate(atp)
    stand.check(atp)
