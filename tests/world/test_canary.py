"""Marked values go through every journey, and then everything that the service left behind is searched for them.

Persons and meter points stand in the ledger as ciphertext alone, purpose and reference in the ledger alone, tokens
nowhere at all: neither in what is pushed and polled, nor in a guard's store and logs. What must be found (the consent's
own key) shows that the search reaches every place it names.
"""

import contextlib
import http.client
import json
import re
import secrets
import socket
import subprocess
import sys
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest

from engine.clock import UnixTime, format_utc, parse_utc
from engine.consent.energy_consent import TYPE
from engine.consent.meter_points import mpan_check_digit
from engine.consent.records import ConsentId, consent_key
from engine.consent.windows import midnight_before, months_after
from engine.telemetry.host import SystemClock
from tests.support.canary import contents_of, disguises, files_below, found, redis_values, search
from tests.support.sandbox import ROOT, SOON, Caller, Running, eventually


def drawn(kind: str) -> str:
    return f"canary-{kind}-{secrets.token_hex(6)}"


class Marks:
    """Values that stand nowhere else in the world."""

    def __init__(self) -> None:
        leading = f"19{secrets.randbelow(10**10):010}"
        self.mpan = leading + mpan_check_digit(leading)
        self.name = f"Zoë O'{drawn('name')} Müller+Sons"
        self.address = f"7 {drawn('address')} Lane, Caerfelin, ZZ11 1ZZ"
        self.person_id = drawn("person")
        self.reference = drawn("reference")
        self.purpose = f"Show {drawn('purpose')} & what it costs"
        self.garbage = drawn("garbage")
        self.asked = f"canary_{secrets.token_hex(6)}"  # said in an introspection's context

    @property
    def person(self) -> dict[str, str]:
        """What only the encrypted part of the ledger may hold."""
        return {"name": self.name, "address": self.address, "mpan": self.mpan}

    @property
    def evidence(self) -> dict[str, str]:
        """What the ledger may hold in clear, and nothing else."""
        return {"purpose": self.purpose, "reference": self.reference, "person_id": self.person_id}

    def grant_form(self, dataset_id: str) -> dict[str, Any]:
        now = SystemClock().now()
        return {
            "client_id": "atp-1",
            "edps": ["edp-1"],
            "authorization_details": {
                "type": TYPE,
                "dataset_id": dataset_id,
                "purpose": self.purpose,
                "access_mode": "enduring",
                "consent_expires_at": format_utc(months_after(now, 2)),
                "data_from": format_utc(midnight_before(months_after(now, -6))),
                "meter_points": [f"mpan:{self.mpan}"],
                "atp_declaration": "atp-decl-1",
                "atp_reference": self.reference,
            },
            "person": {"person_id": self.person_id, "name": self.name, "address": self.address},
            "address_confirmed": True,
            "wording": "canary-1",
        }


def told(caller: Caller, method: str, path: str, body: object = None, *statuses: int) -> Any:
    status, answer = caller.call(method, path, body, {"idempotency-key": str(uuid4())})
    assert status in (statuses or (200, 201)), answer
    return answer


def introspections(running: Running, marks: Marks, token: str, detail: dict[str, Any]) -> None:
    """Every way to ask: right, inside, outside, as somebody else, with what is no token, in ways that are refused."""
    edp, other, atp = running.caller("edp-1"), running.caller("edp-2"), running.caller("atp-1")
    inside = {
        "ccs_dataset_id": detail["dataset_id"],
        "ccs_mpxn": f"mpan:{marks.mpan}",
        "ccs_from": detail["data_from"],
        "ccs_to": format_utc(UnixTime(parse_utc(detail["data_from"]) + 86_400)),
    }
    assert edp.introspect(token)[1]["active"] is True
    assert edp.introspect(token, **inside, ccs_share_id=marks.asked)[1]["active"] is True
    assert edp.introspect(token, **{**inside, "ccs_from": "2001-01-01T00:00:00Z"})[1]["active"] is False
    assert edp.introspect(token, **inside, ccs_purpose_code=marks.asked)[1]["active"] is False
    assert edp.introspect(token, **{**inside, "ccs_mpxn": f"mpan:{marks.mpan[::-1]}x"})[0] == 400
    assert edp.introspect(token, token_type_hint=marks.asked)[0] in (200, 400)
    for caller in (other, atp):
        assert caller.introspect(token) == (200, {"active": False})
        assert caller.introspect(token, **inside) == (200, {"active": False})
    head, claims, signature = token.split(".")
    for garbage in (
        marks.garbage,
        f"{head}.{claims}.{marks.garbage}",
        f"{head}.{b64encode(json.dumps({'sub': marks.garbage}).encode()).decode().rstrip('=')}.{signature}",
        token + marks.garbage,
    ):
        assert edp.introspect(garbage) == (200, {"active": False})
    edp.connection.request("POST", f"/introspect?token={token}&x={quote(marks.name)}", "", {"content-length": "0"})
    refused = edp.connection.getresponse()
    assert (refused.status, bool(refused.read())) == (400, True)


def administration(running: Running, marks: Marks, consent_id: str) -> None:
    """Reading, refusals that quote what was sent, a renewal, a suspension and its end, a revocation."""
    atp, operator = running.machine("atp-1"), running.machine("operator-1")
    path = f"/consents/{consent_id}"
    shown = told(atp, "GET", path)
    assert shown["consent"]["meter_points"] == [f"mpan:{marks.mpan}"]
    told(operator, "GET", path)
    told(running.machine("atp-2"), "GET", path, None, 404)
    told(atp, "GET", f"/consents/{quote(marks.person_id)}", None, 404)
    told(atp, "GET", f"/{quote(marks.name, safe='')}", None, 404)
    told(atp, "POST", f"{path}/revoke?wait={quote(marks.name)}", {"reason": "withdrawn"}, 400)
    wrong = marks.grant_form("hh-electricity-import")
    told(atp, "POST", "/consents", {**wrong, marks.name: marks.address}, 400)
    told(atp, "POST", "/consents", {**wrong, "edps": ["nobody"]}, 400)
    told(atp, "POST", "/consents", {**wrong, "address_confirmed": marks.address}, 400)
    later = format_utc(months_after(SystemClock().now(), 3))
    told(
        atp,
        "POST",
        f"{path}/renew",
        {"consent_expires_at": later, "address_confirmed": True, "wording": "canary-1", "evidence": "case-1"},
    )
    told(operator, "POST", "/participants/edp-2/suspend")
    told(operator, "POST", "/participants/edp-2/reinstate")
    told(atp, "POST", f"{path}/revoke?wait=10", {"reason": "withdrawn"})
    told(atp, "POST", f"{path}/revoke", {"reason": "withdrawn"}, 409)


def pages(running: Running) -> Iterator[tuple[str, bytes]]:
    """What operators and their machines can scrape."""
    node, console = urlsplit(running.about["node_status_url"]), urlsplit(running.about["console_url"])
    at_node = http.client.HTTPConnection(str(node.hostname), node.port, timeout=SOON)
    with contextlib.closing(at_node):
        for path in ("/metrics", "/statusz", "/healthz", "/readyz"):
            at_node.request("GET", path)
            yield f"node {path}", at_node.getresponse().read()
    context = running.context("operator-1")
    at_console = http.client.HTTPSConnection(str(console.hostname), console.port, context=context, timeout=SOON)
    with contextlib.closing(at_console):
        for path in ("/", "/metrics"):
            at_console.request("GET", path)
            answer = at_console.getresponse()
            assert answer.status == 200
            yield f"console {path}", answer.read()


class Guard:
    """The EDP's guard beside the sandbox, as `ccs sandbox guard` sets it up, with all that it can log."""

    def __init__(self, running: Running, log: Path) -> None:
        done = running.ccs("sandbox", "guard", "edp-1", "--port", "0", "--receiver-port", "0", "--status-port", "0")
        assert done.returncode == 0, done.stderr
        self.home = running.state / "guard/edp-1"
        settings = self.home / "guard.toml"
        settings.write_text('log-level = "debug"\n' + settings.read_text())
        self.status_port = int(re.findall(r"^status-port = (\d+)$", settings.read_text(), re.MULTILINE)[0])
        command = [sys.executable, "-m", "admin.cli", "guard", "--config", str(settings)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
            )

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("guard", timeout=SOON)
        with contextlib.closing(connection):
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(SOON)
            connection.sock.connect(str(self.home / "guard.sock"))
            raw = None if body is None else json.dumps(body)
            connection.request(method, path, raw, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def events(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.call("GET", "/v1/status")[1]["events"]
        except OSError:
            assert self.process.poll() is None
            return {"push_status": "", "last_seq": 0, "missing_since": "not there"}
        return found

    def metrics(self) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=SOON)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().read()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(SOON) == 0


def shares(guard: Guard, running: Running, marks: Marks, token: str, detail: dict[str, Any]) -> None:
    """What an EDP's own programs ask its guard: right, outside, with a wrong certificate, wrongly, as garbage."""
    share = {
        "token": token,
        "certificate": (running.state / "pki/atp-1.pem").read_text(),
        "dataset_id": detail["dataset_id"],
        "mpxn": f"mpan:{marks.mpan}",
        "from": detail["data_from"],
        "to": format_utc(UnixTime(parse_utc(detail["data_from"]) + 1_800)),
    }
    asked = [
        (share, "consented"),
        ({**share, "share_id": marks.asked}, "consented"),
        ({**share, "from": "2001-01-01T00:00:00Z"}, "not_active"),
        ({**share, "certificate": (running.state / "pki/atp-2.pem").read_text()}, "wrong_certificate"),
        ({**share, "token": marks.garbage}, "not_active"),
    ]
    for question, reason in asked:
        status, verdict = guard.call("POST", "/v1/check", question)
        assert (status, verdict["reason"]) == (200, reason)
    for wrong in ({**share, "dataset_id": 7}, {**share, marks.name: marks.address}, {**share, "mpxn": marks.mpan[:9]}):
        assert guard.call("POST", "/v1/check", wrong)[0] == 400
    assert guard.call("POST", "/v1/check-many", {"shares": [share, share]})[0] in (200, 400)


def polled(running: Running, client_id: str, stream: dict[str, Any], consent_id: str) -> bytes:
    """What the client is told of the consent: its beginning, its renewal and its end, each as it was signed."""
    path = urlsplit(stream["delivery"]["endpoint_url"]).path
    found: dict[str, str] = {}

    def whole() -> bool:
        sets = told(running.machine(client_id), "POST", path, {"returnImmediately": True})["sets"]
        found.update({jti: one for jti, one in sets.items() if consent_id.encode() in claims_of(one)})
        return len(found) >= 3

    eventually(whole)
    return "\n".join(found.values()).encode() + b"".join(map(claims_of, found.values()))


def claims_of(compact: str) -> bytes:
    part = compact.split(".")[1]
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_nothing_that_was_marked_is_left_where_it_does_not_belong(tmp_path: Path) -> None:
    marks = Marks()
    running = Running(tmp_path / "var", 'log-level = "debug"\n', consents=3, workers=1).start()
    guard = Guard(running, tmp_path / "guard.log")
    try:
        stream = told(running.machine("atp-1"), "POST", "/ssf/streams", {})
        eventually(lambda: guard.events()["push_status"] == "enabled" and not guard.events()["missing_since"])
        granted = told(running.machine("atp-1"), "POST", "/consents", marks.grant_form("hh-electricity-import"))
        path = f"/consents/{granted['consent_id']}/tokens"
        token = told(running.machine("atp-1"), "POST", path, {"edp": "edp-1"})["token"]
        caller = running.caller("edp-1")
        eventually(lambda: caller.introspect(token)[1].get("active") is True)
        (detail,) = caller.introspect(token)[1]["authorization_details"]
        introspections(running, marks, token, detail)
        shares(guard, running, marks, token, detail)
        administration(running, marks, granted["consent_id"])
        eventually(lambda: caller.introspect(token) == (200, {"active": False}))
        told(running.machine("atp-1"), "POST", path, {"edp": "edp-1"}, 409)
        key = consent_key(ConsentId(granted["consent_id"]))
        head = running.node_status()["applied"]
        eventually(lambda: guard.events()["last_seq"] >= head)
        wire = polled(running, "atp-1", stream, granted["consent_id"])
        assert b"consent-revoked" in wire
        pages_of_guard = [("guard /metrics", guard.metrics())]
        guard.stop()
        live = [
            ("wire", wire),
            *pages_of_guard,
            *pages(running),
            *redis_values(running.about["redis_url"]),
            *files_below(running.state),
        ]
        assert any(key in contents for place, contents in live if place.startswith("redis b"))
    finally:
        if guard.process.poll() is None:
            guard.process.kill()
        assert running.stop() == 0, running.output.read_text()

    guards_log = ("guard.log", contents_of(tmp_path / "guard.log"))
    places = [*live, *files_below(running.state), ("ccs up", contents_of(running.output)), guards_log]
    searched = ("ledger/ledger.db", "redis/", "replica/", "log/node.log", "log/admin.log", "log/pusher.log")
    for where in (*searched, "guard/edp-1/store/", "guard.log"):
        assert any(place.startswith(where) and contents for place, contents in places), f"{where} was not searched"
    for where in ("ledger/", "redis/", "replica/"):
        assert any(place.startswith(where) and key in contents for place, contents in places), where

    _, claims, signature = token.split(".")
    tokens = {"token": token, "claims": claims, "signature": signature, "garbage": marks.garbage, "asked": marks.asked}
    in_ledger = [(place, contents) for place, contents in places if place.startswith("ledger/")]
    elsewhere = [(place, contents) for place, contents in places if not place.startswith("ledger/")]
    assert search({**tokens, **marks.person, **marks.evidence}, elsewhere) == []
    assert search({**tokens, **marks.person}, in_ledger) == []
    assert {find.split(": ")[1] for find in search(marks.evidence, in_ledger)} == set(marks.evidence)


MARK = "Zoë O'canary-4f+/x Müller"


@pytest.mark.parametrize("offset", range(3))
@pytest.mark.parametrize("form", range(len(list(disguises(MARK)))))
def test_a_planted_marker_is_found_in_every_disguise(tmp_path: Path, form: int, offset: int) -> None:
    planted = list(disguises(MARK))[form]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file.log").write_bytes(b"x" * offset + planted + b"y")
    (tmp_path / "innocent.log").write_bytes(b"nothing to see")
    assert search({"mark": MARK, "other": "another"}, files_below(tmp_path)) == ["deep/file.log: mark"]


@pytest.mark.parametrize("before", range(7))
def test_a_marker_inside_of_what_was_encoded_whole_is_found(before: int) -> None:
    whole = b"k" * before + MARK.encode() + b"behind"
    for encoded in (b64encode(whole), whole.hex().encode(), quote(whole).encode()):
        assert found({"mark": MARK}, b"..." + encoded + b"...") == ["mark"]
        assert found({"mark": MARK.replace("4f", "5f")}, encoded) == []


def test_what_stands_behind_a_hole_of_a_sparse_file_is_found(tmp_path: Path) -> None:
    with (tmp_path / "data.mdb").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 30)
        file.write(MARK.encode())
    assert search({"mark": MARK}, files_below(tmp_path)) == ["data.mdb: mark"]
