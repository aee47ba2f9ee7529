"""The receivers' guide as its reader meets it: its own commands and its own receiver, against a running sandbox.

The pusher pushes, the receiver is stopped and comes back, and in the end it knows what the ledger knows.
"""

import base64
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from engine.consent.records import ConsentRecord
from engine.events.sets import wire_state
from engine.events.signing import EVENT_TYPE
from engine.feed.entries import EntryKind
from tests.support.sandbox import ROOT, SOON, Running, eventually
from tests.world import test_front_door
from tests.world.test_front_door import checkout, run_as_written, shell_blocks

__all__ = ["checkout"]
PAGE = "docs/receivers.md"
EDP = "edp-2"
MISSING = "SOMETHING IS MISSING"


class Reader:
    """Whoever follows the guide, with the sandbox's own ports in place of the default ones."""

    def __init__(self, sandbox: Running, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.log = folder / "receiver.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = str(free.getsockname()[1])
        self.kept: dict[str, str] = {}  # what was polled
        python = folder / ".venv/bin/python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)

    def run(self, block: str) -> str:
        return run_as_written(block.replace("9443", self._port), self.sandbox, self.folder)

    def save_the_receiver(self) -> None:
        (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / PAGE).read_text(), re.MULTILINE | re.DOTALL)
        assert 'ISSUER, CLIENT_ID, PORT = "https://localhost:8450", "edp-2", 9443' in program
        program = program.replace("https://localhost:8450", self.sandbox.about["issuer"]).replace("9443", self._port)
        (self.folder / "var/receiver.py").write_text(program)

    @contextmanager
    def receiving(self, block: str) -> Iterator[None]:
        """The receiver runs; Ctrl-C stops it."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {block.strip()}"], cwd=self.folder, stdout=log, stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)}, process_group=0,
            )  # fmt: skip
        try:
            eventually(lambda: self._listens() or process.poll() is not None)
            assert process.poll() is None, self.log.read_text()
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(SOON)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self._port))) == 0

    def push(
        self,
        body: str,
        method: str = "POST",
        *,
        path: str = "/events",
        media: str = "application/secevent+jwt",
        length: int | None = None,
        certificate: bool = True,
    ) -> tuple[int, dict[str, str], dict[str, str]]:
        """One request to the receiver: status, headers and what it tells. length: as it claims."""
        ca = str(self.sandbox.state / "pki/ca.pem")
        tls = self.sandbox.context(EDP) if certificate else ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection("localhost", int(self._port), context=tls, timeout=SOON)
        with closing(connection):
            size = len(body) if length is None else length
            connection.request(method, path, body, {"Content-Type": media, "Content-Length": str(size)})
            answer = connection.getresponse()
            content = answer.read()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, headers, json.loads(content) if content else {}

    def told(self) -> list[str]:
        """What the receiver said of each event."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(("new ", "repeated "))]

    def truth(self) -> dict[str, tuple[int, str]]:
        """The EDP's consents as the ledger has them: version and state."""
        engine = sa.create_engine(f"sqlite:///{self.sandbox.state / 'ledger/ledger.db'}")
        with engine.connect() as connection:
            query = sa.text("SELECT key, record FROM feed_records WHERE kind = :kind")
            rows = connection.execute(query, {"kind": int(EntryKind.CONSENT)}).all()
        engine.dispose()
        found = [(row.key, msgspec.msgpack.decode(row.record, type=ConsentRecord)) for row in rows]
        return {id_of(key): (one.consent_version, wire_state(one.state)) for key, one in found if EDP in one.edps}


def id_of(key: bytes) -> str:
    return re.sub(r"(.{8})(.{4})(.{4})(.{4})(.{12})", r"\1-\2-\3-\4-\5", key.hex())


def test_the_receivers_guide_followed_to_its_end_leaves_a_healed_receiver(
    sandbox: Running, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(test_front_door.DOCUMENTED, "localhost:8450", "admin_url")
    (
        discover, certificate, serve, poll_stream, push_stream, challenge, confirm, verify, changes, snapshot,
        happen, show, poll, leave, operators,
    ) = shell_blocks(PAGE)  # fmt: skip
    reader = Reader(sandbox, checkout)
    run = reader.run

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run(show))
        return found

    found = json.loads(run(discover))
    assert (found["issuer"], found["delivery_methods_supported"][0]) == (sandbox.about["issuer"], "urn:ietf:rfc:8935")
    assert found["configuration_endpoint"] == f"{sandbox.about['admin_mtls_url']}/ssf/streams"
    assert found["jwks_uri"] == f"{sandbox.about['issuer']}/event-jwks"
    run(certificate)
    reader.save_the_receiver()
    with reader.receiving(serve):
        made = json.loads(run(poll_stream))
        assert made["delivery"]["endpoint_url"] == f"{sandbox.about['admin_mtls_url']}/ssf/poll/{made['stream_id']}"
        push = json.loads(run(push_stream))
        assert (push["aud"], push["delivery"]["method"]) == (EDP, "urn:ietf:rfc:8935")
        assert pushed_word(lambda: run(challenge).strip())
        assert json.loads(run(confirm)) == {"stream_id": push["stream_id"], "status": "enabled"}
        eventually(lambda: any(f"new stream-updated {push['stream_id']}" in line for line in reader.told()))
        assert json.loads(run(verify)) == {"stream_id": push["stream_id"], "status": "enabled"}
        eventually(lambda: shown()["state"] == "round-1")

        assert run(changes).splitlines() == ["410", "take the snapshot"]
        assert run(snapshot).splitlines()[-1] == "whole"
        begun = shown()
        assert not begun["missing"]
        assert known(begun) == reader.truth()
        assert "active" in {state for _, state in known(begun).values()}

        run(happen)
        consent_id = consent_of(sandbox)
        eventually(lambda: known(shown()).get(consent_id) == (2, "revoked"))
        eventually(lambda: shown()["place"] > begun["place"] and not shown()["missing"])
        granted, revoked = (line for line in reader.told() if consent_id in line)
        assert granted.startswith("new consent-granted ")
        assert revoked.startswith("new consent-revoked ")
        assert revoked.rsplit(" after ")[1].split()[0] == granted.rsplit(" after ")[0].split()[-1]  # a chain

    before = shown()
    run(happen)
    missed = consent_of(sandbox)
    with reader.receiving(serve):
        (minted,) = sandbox.tokens(1, "--edp", EDP)
        eventually(lambda: any(minted["consent_id"] in line and MISSING in line for line in reader.told()))
        assert shown()["missing"]
        assert shown()["place"] == before["place"]

        polled: dict[str, dict[str, Any]] = {}
        eventually(
            lambda: {"consent-granted", "consent-revoked"} <= types_of(missed, polled | more(reader, poll, polled))
        )
        assert {consent_id, missed, minted["consent_id"]} <= {claims["sub_id"]["id"] for claims in polled.values()}
        assert json.loads(run(poll)) == {"sets": {}, "moreAvailable": False}
        assert more(reader, poll, polled) == {}  # all of it was acknowledged
        healed = shown()
        assert not healed["missing"]
        assert known(healed)[missed] == (2, "revoked")
        assert run(changes).splitlines() == ["200", "whole"]
        assert known(shown()) == reader.truth()
        assert shown()["place"] >= healed["place"]
        assert_refuses(reader, next(iter(reader.kept.values())))
        assert known(shown()) == reader.truth()

        run(leave)
    streams = sandbox.machine(EDP).call("GET", "/ssf/streams")[1]
    assert [one["stream_id"] for one in streams] == [made["stream_id"]]
    said = run(operators)
    for word in (EDP, made["stream_id"], "is paused", "is enabled"):
        assert word in said


def assert_refuses(reader: Reader, good: str) -> None:
    """Each kind of bad input that needs no key of ours, as the EDP's guide has it; and the good one once more."""
    head, claims, signature = good.split(".")
    members = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))

    def under(**changes: str) -> str:
        header = json.dumps({**members, **changes}).encode()
        return ".".join((base64.urlsafe_b64encode(header).rstrip(b"=").decode(), claims, signature))

    bad = {
        "no set": "invalid_request",
        f"{good}.": "invalid_request",
        under(typ="at+jwt"): "invalid_request",
        under(alg="none"): "authentication_failed",
        under(alg="HS256"): "authentication_failed",
        under(kid="nobody's"): "invalid_key",
        ".".join((head, claims, signature[:-8] + "AAAAAAAA")): "authentication_failed",
    }
    for body, err in bad.items():
        status, _, told = reader.push(body)
        assert (status, told["err"], bool(told["description"])) == (400, err, True)
    for method in ("GET", "PUT", "DELETE"):
        status, headers, _ = reader.push("", method)  # without content: it hangs up before it would be read
        assert (status, headers["allow"]) == (405, "POST")
    assert reader.push(good, media="application/json")[0] == 415
    assert reader.push("", length=65_537)[0] == 413
    assert reader.push(good, path="/elsewhere")[0] == 404
    with pytest.raises((OSError, http.client.HTTPException)):
        reader.push(good, certificate=False)
    assert reader.push(good)[0] == 202  # a repeat


def more(reader: Reader, poll: str, polled: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Poll once; the claims of what came, by `jti`, which was not polled before."""
    assert json.loads(reader.run(poll)) == {"sets": {}, "moreAvailable": False}
    sets: dict[str, str] = json.loads((reader.folder / "var/polled.json").read_text())["sets"]
    assert not sets.keys() & polled.keys()
    reader.kept |= sets
    acknowledged = json.loads((reader.folder / "var/acknowledged.json").read_text())
    assert acknowledged == {"maxEvents": 0, "ack": list(sets), "setErrs": {}}
    came = {jti: opened(compact) for jti, compact in sets.items()}
    polled.update(came)
    return came


def opened(compact: str) -> dict[str, Any]:
    """The claims; who made them, the guide's receiver has looked at."""
    header, claims = (
        json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in compact.split(".")[:2]
    )
    assert (header["typ"], header["alg"], claims["aud"]) == (EVENT_TYPE, "ES256", EDP)
    found: dict[str, Any] = claims
    return found


def types_of(consent_id: str, polled: dict[str, dict[str, Any]]) -> set[str]:
    return {
        next(iter(one["events"])).rpartition("/")[2] for one in polled.values() if one["sub_id"]["id"] == consent_id
    }


def known(shown: dict[str, Any]) -> dict[str, tuple[int, str]]:
    return {consent_id: (version, state) for consent_id, version, state in shown["consents"]}


def consent_of(sandbox: Running) -> str:
    (line,) = (sandbox.state / "token-2.jsonl").read_text().splitlines()
    consent_id: str = json.loads(line)["consent_id"]
    return consent_id


def pushed_word(ask: Callable[[], str]) -> str:
    eventually(lambda: bool(ask()))
    return ask()


def test_the_codes_that_the_guide_names_are_the_services_own() -> None:
    from admin.callers import SuspendedCaller, WrongRole
    from admin.directory.poll_views import PollOutstanding
    from admin.directory.stream_service import StreamDisabled, WrongChallenge
    from admin.directory.streams import (
        AddressNotConfirmed,
        ChallengeSpent,
        MandatoryStream,
        NothingToConfirm,
        StreamExists,
        StreamHeld,
        TooSoon,
        UnknownStream,
    )
    from admin.edge import STATUSES, code_of
    from admin.ledger.listings import TooOld
    from engine.clock import Seconds
    from engine.consent.reading import InvalidFields, InvalidText

    kinds = (
        SuspendedCaller, WrongRole, PollOutstanding, StreamDisabled, WrongChallenge, AddressNotConfirmed,
        ChallengeSpent, MandatoryStream, NothingToConfirm, StreamExists, StreamHeld, UnknownStream, TooOld, InvalidText,
    )  # fmt: skip
    faults = [InvalidFields([]), TooSoon(Seconds(1.0)), *(kind("") for kind in kinds)]
    told = {(int(STATUSES[fault.kind]), code_of(fault)) for fault in faults}
    rows = re.findall(r"^\| (?:401, )?(\d{3}) ((?:`\w+`(?:, )?)+) \|", (ROOT / PAGE).read_text(), re.MULTILINE)
    assert {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)} == told
