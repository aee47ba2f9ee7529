"""The whole admin application, in this process and in one of its own: what it opens, writes first, and how it stops."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import sqlalchemy as sa
import trio
from structlog.testing import capture_logs

from admin.app import Ports, face_of, run_admin
from admin.authorization.rotation import RotationTooEarly
from admin.config import AdminConfig, Bootstrap, Feed, Issuer, Ledger, Web
from admin.directory.receiver_watch import ReceiverWatch
from admin.edge import edge_app
from admin.ledger.bulk import NoLedger
from admin.ledger.events import (
    Act,
    Initiator,
    IssuerKeysPublished,
    ParticipantRegistered,
    Route,
    StreamChanged,
    append_of,
    event_of,
)
from admin.ledger.genesis import WrongLedger, WrongPersonKey
from admin.ledger.sql import begin_ledger, open_ledger, open_reader
from admin.listeners import CannotListen, listen, port_of
from admin.pages import NodeRow, Status, status_views
from admin.pki.key_files import BadKeyFile, generate_secret
from admin.pki.keys import generate_token_key
from admin.writing import Place
from engine.clock import Seconds, UnixTime
from engine.config import BadConfig, Redis, Tls
from engine.consent.records import ClientId, Role
from engine.events.facts import ConsentFact
from engine.pusher.over_https import HttpsPushService
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from engine.telemetry.host import SystemClock
from tests.support.admin_service import grant_form, ledger_config, tls_of
from tests.support.events import signer
from tests.support.ledger import tamper
from tests.support.pki import Pki
from tests.support.restored import say_restored

ROOT = Path(__file__).parents[2]
ISSUER = "https://localhost:8450"
WITHIN = 60.0  # seconds: against hanging only


@pytest.fixture
def config(pki: Pki, tmp_path: Path) -> AdminConfig:
    """A sandbox without Redis, on free ports."""
    for name in ("mac.key", "meter.key"):
        generate_secret(tmp_path / name)
    generate_token_key(tmp_path / "token-1.pem", "ES256")
    return AdminConfig(
        ledger=ledger_config(tmp_path),
        issuer=Issuer(issuer=ISSUER, key_files=(tmp_path / "token-1.pem",)),
        web=Web(tls=tls_of(pki), public_port=0, machine_port=0, console_port=0),
        feed=Feed(mac_key_files=(tmp_path / "mac.key",), meter_key_file=tmp_path / "meter.key"),
        redis=None,
        introspection_endpoint="https://localhost:8440/introspect",
        bootstrap=(
            Bootstrap(
                client_id="operator-1",
                role="operator",
                certificate_file=pki.client("operator-1").certificate_file,
            ),
            Bootstrap(client_id="node-1", role="node", certificate_file=pki.client("node-1").certificate_file),
        ),
    )


@asynccontextmanager
async def running(config: AdminConfig) -> AsyncIterator[Ports]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(run_admin, config)
        nursery.cancel_scope.cancel()


def http(pki: Pki, port: int, client_id: str | None = None) -> httpx2.AsyncClient:
    verify = pki.client_context(client_id)
    return httpx2.AsyncClient(base_url=f"https://localhost:{port}", verify=verify, timeout=WITHIN)


def changed(config: Any, **members: Any) -> Any:
    return msgspec.structs.replace(config, **members)


async def test_the_public_listener_tells_who_issues_tokens_and_with_which_keys(config: AdminConfig, pki: Pki) -> None:
    async with running(config) as ports, http(pki, ports.public) as client:
        metadata = (await client.get("/.well-known/oauth-authorization-server")).json()
        same = (await client.get("/.well-known/openid-configuration")).json()
        keys = await client.get("/jwks")
    assert metadata == same
    assert (metadata["issuer"], metadata["jwks_uri"]) == (ISSUER, f"{ISSUER}/jwks")
    assert metadata["introspection_endpoint"] == "https://localhost:8440/introspect"
    assert metadata["tls_client_certificate_bound_access_tokens"] is True
    assert keys.headers["Content-Type"] == "application/jwk-set+json"
    (key,) = keys.json()["keys"]
    assert (key["alg"], key["use"]) == ("ES256", "sig")
    assert "d" not in key


async def test_a_pusher_gets_what_consents_bring_and_its_key_stands_in_a_set_of_its_own(
    config: AdminConfig, pki: Pki
) -> None:
    pusher = Bootstrap(client_id="pusher-1", role="pusher", certificate_file=pki.client("pusher-1").certificate_file)
    with_pusher = changed(config, bootstrap=(*config.bootstrap, pusher))
    async with running(with_pusher) as ports, http(pki, ports.public) as public:
        feed = f"https://localhost:{ports.machine}/feed"
        service = HttpsPushService(feed, pki.client_context("pusher-1"))
        statement = signer().sign_key_statement("pusher-1", ISSUER, UnixTime(int(time.time())))
        kid, _ = await service.register_event_key(statement)
        keys, others = await public.get("/event-jwks"), await public.get("/jwks")
        async with http(pki, ports.machine, "operator-1") as machine:
            await register_parties(machine, pki)
            way = DeliveryMethod.POLL, StreamStatus.ENABLED
            stream = StreamRecord(str(uuid.uuid4()), ClientId("edp-1"), Role.EDP, *way)
            await write_stream(config, stream)
            granted = await machine.post("/consents", json=grant_form(), headers={"Idempotency-Key": "key-00001"})
        [delivery] = await service.unsigned(0, 10, Seconds(20.0))
        for client_id, path in (("pusher-1", "keys"), ("pusher-1", "snapshot"), ("node-1", "pusher/roster")):
            async with http(pki, ports.machine, client_id) as wrong:
                called = wrong.post if path.startswith("pusher") else wrong.get
                assert (await called(f"/feed/{path}")).status_code == 403
        await service.aclose()
    assert [key["kid"] for key in keys.json()["keys"]] == [kid]
    assert keys.headers["Content-Type"] == "application/jwk-set+json"
    assert kid not in {key["kid"] for key in others.json()["keys"]}
    assert (delivery.client_id, delivery.seq, delivery.prev) == ("edp-1", granted.json()["position"]["seq"], 0)
    assert isinstance(delivery.fact, ConsentFact)
    assert delivery.fact.consent_id == granted.json()["consent_id"]


async def test_a_receiver_finds_its_way_from_the_issuers_name_to_a_stream(config: AdminConfig, pki: Pki) -> None:
    async with running(config) as ports, http(pki, ports.public) as public:
        found = (await public.get("/.well-known/ssf-configuration")).json()
        assert (found["issuer"], found["jwks_uri"]) == (ISSUER, f"{ISSUER}/event-jwks")
        async with http(pki, ports.machine, "operator-1") as machine:
            await register_parties(machine, pki)
        async with http(pki, ports.machine, "edp-1") as edp:
            made = (await edp.post(found["configuration_endpoint"], json={})).json()
            one = {"stream_id": made["stream_id"]}
            assert (await edp.get(found["status_endpoint"], params=one)).json() == {**one, "status": "enabled"}
            asked = await edp.post(found["verification_endpoint"], json=one)
            assert (asked.status_code, asked.content) == (204, b"")
            assert (
                await edp.post(found["ccs_confirmation_endpoint"], json={**one, "challenge": "x"})
            ).status_code == 409
            polled = await edp.post(made["delivery"]["endpoint_url"], json={"returnImmediately": True})
            assert polled.json() == {"sets": {}, "moreAvailable": False}  # nobody signs here
            snapshot = (await edp.get("/consents/snapshot")).json()
            assert (snapshot["consents"], "cursor" in snapshot) == ([], False)
        async with http(pki, ports.machine, "operator-1") as machine:
            (receiver,) = (await machine.get("/receivers")).json()["receivers"]
    assert (receiver["client_id"], receiver["unacknowledged"]) == ("edp-1", 1)


def test_the_machine_listener_has_a_name_of_its_own_where_the_settings_say_so(config: AdminConfig) -> None:
    named = changed(config, web=changed(config.web, machine_url="https://machines.ccs.example"))
    assert face_of(named, 8451).machine_url == "https://machines.ccs.example"
    for issuer, expected in (
        ("https://ccs.example", "https://ccs.example:8451"),
        ("https://[::1]:8450/path", "https://[::1]:8451"),
    ):
        face = face_of(changed(config, issuer=changed(config.issuer, issuer=issuer)), 8451)
        assert (face.issuer, face.machine_url) == (issuer, expected)


async def test_the_status_page_escapes_what_it_shows() -> None:
    async def status() -> Status:
        node = NodeRow("node-1", "<b>", 91_822, 3, "0.1")
        return Status("now", "sandbox", Place("i", 1), (node,), (("sequencer", "<i>"),), "<u>")

    app = edge_app()
    app.register_blueprint(status_views(status))
    page = await (await app.test_client().get("/")).get_data()
    for shown in ("node-1", "91822", "&lt;b&gt;", "&lt;i&gt;", "&lt;u&gt;"):
        assert shown in str(page)


async def test_the_status_page_tells_of_no_atp_or_edp_and_operators_ask_for_receivers(
    config: AdminConfig, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody signs in to the page. It is looked at once the watch over receivers has seen one."""
    seen, look = trio.Event(), ReceiverWatch.look

    async def looking(watch: ReceiverWatch) -> None:
        await look(watch)
        if watch.standings:
            seen.set()

    monkeypatch.setattr(ReceiverWatch, "look", looking)
    async with running(config) as ports, http(pki, ports.machine, "operator-1") as operator:
        await register_parties(operator, pki)
        way = DeliveryMethod.POLL, StreamStatus.ENABLED
        await write_stream(config, StreamRecord(str(uuid.uuid4()), ClientId("edp-1"), Role.EDP, *way))
        with trio.fail_after(20):
            while True:
                shown = (await operator.get("/receivers")).json()["receivers"]
                if shown:
                    break
                await trio.sleep(0.02)
    async with running(config) as ports, http(pki, ports.console) as console:
        with trio.fail_after(20):
            await seen.wait()
        page = (await console.get("/")).text
        assert (await console.get("/receivers")).status_code == 404
    assert [one["client_id"] for one in shown] == ["edp-1"]
    assert "<code>ccs receivers</code>" in page
    assert not re.search("(edp|atp)-[0-9]", page)


async def write_stream(config: AdminConfig, stream: StreamRecord) -> None:
    """As the calls for streams would."""
    act = Act(Initiator.OPERATOR, "operator-1", Route.API, stream.created_at)
    async with open_ledger(config.ledger, SystemClock()) as ledger:
        await ledger.append([append_of(StreamChanged(stream, act), 0)])


async def test_pages_show_no_script_no_person_and_are_for_their_listener_only(config: AdminConfig, pki: Pki) -> None:
    async with running(config) as ports:
        async with http(pki, ports.machine, "operator-1") as machine:
            await register_parties(machine, pki)
            granted = await machine.post("/consents", json=grant_form(), headers={"Idempotency-Key": "key-00001"})
            assert granted.status_code == 201, granted.text
        async with http(pki, ports.public) as public, http(pki, ports.console) as console:
            landing, status = await public.get("/"), await console.get("/")
            assert (await public.get("/consents/x")).status_code == 404
            assert (await console.get("/jwks")).status_code == 404
    assert "This is a sandbox" in landing.text
    assert f"<dd>{granted.json()['position']['seq']}</dd>" in status.text
    person = grant_form()["person"]
    for page in (landing, status):
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert "<script" not in page.text
        assert person["name"] not in page.text
        assert granted.json()["consent_id"] not in page.text


async def test_a_recovering_ledger_is_told_on_the_pages_in_the_metrics_and_in_the_log(
    config: AdminConfig, pki: Pki
) -> None:
    async with running(config):
        pass  # the first start makes the ledger
    async with open_ledger(config.ledger, SystemClock()) as ledger:
        await say_restored(ledger, gap_from=1_795_000_000, gap_to=1_795_000_060)
    with capture_logs() as logs:
        async with running(config) as ports, http(pki, ports.public) as public, http(pki, ports.console) as console:
            landing, status, scraped = await public.get("/"), await console.get("/"), await console.get("/metrics")
    assert "recovering from a loss" in landing.text
    assert "reports missing: 1, events untold: 10" in status.text
    assert "node-1" not in status.text
    assert "ccs_ledger_recovering 1.0" in scraped.text
    assert "ccs_recovery_reports_missing 1.0" in scraped.text
    assert [line["gap_from"] for line in logs if line["event"] == "ledger_recovering"] == ["2026-11-18T11:06:40Z"]


async def register_parties(machine: httpx2.AsyncClient, pki: Pki) -> None:
    from base64 import b64encode

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    for client_id, more in (
        ("atp-1", {"role": "atp"}),
        ("edp-1", {"role": "edp", "datasets": ["hh-electricity-import"]}),
    ):
        pem = pki.client(client_id).certificate_file.read_bytes()
        der = b64encode(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)).decode()
        form = {"client_id": client_id, "organisation": {"name": client_id}, "certificates": [der], **more}
        made = await machine.post("/participants", json=form, headers={"Idempotency-Key": f"register-{client_id}"})
        assert made.status_code == 201, made.text


async def test_a_revocation_without_nodes_becomes_effective_by_the_real_barrier(config: AdminConfig, pki: Pki) -> None:
    async with running(config) as ports, http(pki, ports.machine, "operator-1") as machine:
        await register_parties(machine, pki)
        granted = await machine.post("/consents", json=grant_form(), headers={"Idempotency-Key": "key-00001"})
        path = f"/consents/{granted.json()['consent_id']}/revoke?wait=10"
        revoked = await machine.post(path, json={"reason": "withdrawn"}, headers={"Idempotency-Key": "key-00002"})
    assert (revoked.status_code, revoked.json()["state"], revoked.json()["nodes"]) == (200, "effective", [])


async def test_the_console_tells_scrapers_of_this_machine_what_was_done(config: AdminConfig, pki: Pki) -> None:
    def counted(page: str, sample: str) -> float:
        return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(sample + " "))

    samples = {
        "ccs_ledger_events_appended_total": 5,  # two parties with a certificate each, and a consent
        'ccs_feed_calls_total{call="keys"}': 1,
        'ccs_calls_refused_total{code="not_a_node",kind="read"}': 1,
        'ccs_calls_refused_total{code="missing_idempotency_key",kind="write"}': 1,
    }
    async with running(config) as ports, http(pki, ports.console) as console:
        before = (await console.get("/metrics")).text
        async with http(pki, ports.machine, "operator-1") as machine:
            await register_parties(machine, pki)
            await machine.post("/consents", json=grant_form(), headers={"Idempotency-Key": "key-00001"})
            await machine.post("/consents", json=grant_form())
            assert (await machine.get("/metrics")).status_code == 404
            await machine.get("/feed/snapshot")
        async with http(pki, ports.machine, "node-1") as node:
            await node.get("/feed/keys")
        after = (await console.get("/metrics")).text
    assert {name: counted(after, name) - counted(before, name) for name in samples} == samples
    assert counted(after, "ccs_ledger_up") == 1


async def test_the_feed_is_for_nodes(config: AdminConfig, pki: Pki) -> None:
    async with running(config) as ports:
        async with http(pki, ports.machine, "node-1") as node:
            keys, snapshot = await node.get("/feed/keys"), await node.get("/feed/snapshot")
        async with http(pki, ports.machine, "operator-1") as operator:
            refused = await operator.get("/feed/snapshot")
    assert keys.json()["issuer"] == ISSUER
    assert snapshot.headers["Content-Type"] == "application/octet-stream"
    assert (refused.status_code, refused.json()["code"]) == (403, "not_a_node")


async def test_a_damaged_ledger_is_told_to_nobody_as_one_to_ask_again(config: AdminConfig, pki: Pki) -> None:
    async with running(config) as ports:
        tamper(config.ledger.url, sa.text("DROP TABLE subjects"), sa.text("DROP TABLE ledger_meta"))
        async with http(pki, ports.machine, "operator-1") as machine:
            form = {"headers": {"Idempotency-Key": "key-00001"}, "json": {"reason": "a test"}}
            refused = await machine.post("/participants/node-1/suspend", **form)
        async with http(pki, ports.console) as console:
            metrics = (await console.get("/metrics")).text
    assert (refused.status_code, refused.json()["code"]) == (500, "internal")
    assert "Retry-After" not in refused.headers
    assert "ccs_ledger_up 0.0" in metrics


async def test_a_new_ledger_gets_its_first_participants_and_keys_once(config: AdminConfig) -> None:
    for _ in range(2):
        async with running(config):
            pass
    assert await events_of(config.ledger) == [
        "ledger.created",
        "certificate.bound",
        "participant.registered",
        "certificate.bound",
        "participant.registered",
        "issuer.keys_published",
    ]


async def published_keys(config: AdminConfig) -> list[str]:
    async with open_reader(config.ledger) as reader:
        state = await reader.subject("issuer")
    assert state is not None
    event = event_of(state.event)
    assert isinstance(event, IssuerKeysPublished)
    return [key["kid"] for key in json.loads(event.jwks)["keys"]]


async def test_a_second_key_is_published_before_it_may_sign(config: AdminConfig, tmp_path: Path) -> None:
    def with_keys(*names: str, **members: Any) -> AdminConfig:
        files = tuple(tmp_path / name for name in names)
        return changed(config, issuer=msgspec.structs.replace(config.issuer, key_files=files, **members))

    async with running(config):
        pass
    generate_token_key(tmp_path / "token-2.pem", "ES256")
    with pytest.raises(RotationTooEarly):
        await run_admin(with_keys("token-2.pem", "token-1.pem"))
    (old,) = await published_keys(config)
    async with running(with_keys("token-1.pem", "token-2.pem")):
        pass
    first, new = await published_keys(config)
    assert first == old
    async with running(with_keys("token-2.pem", drop_keys_at_once=True)):
        pass
    assert await published_keys(config) == [new]


async def test_a_bootstrapped_participant_has_its_role_and_certificate(config: AdminConfig, pki: Pki) -> None:
    async with running(config):
        pass
    async with open_reader(config.ledger) as reader:
        state = await reader.subject("participant:operator-1")
    assert state is not None
    event = event_of(state.event)
    assert isinstance(event, ParticipantRegistered)
    assert event.participant.certificates == (pki.client("operator-1").certificate,)


async def test_a_new_ledger_is_vouched_for_from_its_start(config: AdminConfig) -> None:
    async with running(config):
        pass
    async with open_reader(config.ledger) as reader:
        head, (made,) = (await reader.head()).position, await reader.checkpoints(0, 10)
    assert (made.incarnation, made.seq) == (head.incarnation, head.seq)


async def test_another_wrapping_key_is_refused(config: AdminConfig, tmp_path: Path) -> None:
    async with running(config):
        pass
    generate_secret(tmp_path / "another.key")
    with pytest.raises(WrongPersonKey):
        await run_admin(
            changed(config, ledger=msgspec.structs.replace(config.ledger, person_key_file=tmp_path / "another.key"))
        )


async def test_a_ledger_of_the_other_kind_is_refused(config: AdminConfig) -> None:
    async with running(config):
        pass
    production = changed(config, ledger=msgspec.structs.replace(config.ledger, kind="production"))
    with pytest.raises(WrongLedger):
        await run_admin(production)


async def test_production_begins_no_ledger_and_a_sandbox_none_that_must_exist(config: AdminConfig) -> None:
    for members in ({"kind": "production"}, {"must_exist": True}):
        with pytest.raises(NoLedger):
            await run_admin(changed(config, ledger=msgspec.structs.replace(config.ledger, **members)))
    production = msgspec.structs.replace(config.ledger, kind="production")
    await begin_ledger(production, SystemClock())
    async with running(changed(config, ledger=production)):
        pass


async def test_what_cannot_be_used_is_said_before_anything_is_opened(
    config: AdminConfig, pki: Pki, tmp_path: Path
) -> None:
    held = await listen("127.0.0.1", 0)
    absent = tmp_path / "absent"
    bad: list[tuple[AdminConfig, type[Exception]]] = [
        (changed(config, web=msgspec.structs.replace(config.web, machine_port=port_of(held))), CannotListen),
        (
            changed(config, web=Web(tls=Tls(certificate_file=absent, key_file=absent, client_ca_file=absent))),
            CannotListen,
        ),
        (changed(config, issuer=Issuer(issuer=ISSUER, key_files=(absent,))), BadKeyFile),
        (changed(config, issuer=Issuer(issuer=ISSUER, key_files=())), BadConfig),
        (changed(config, bootstrap=(Bootstrap(client_id="x", role="node", certificate_file=absent),)), BadConfig),
        (
            changed(config, bootstrap=(Bootstrap(client_id="x", role="node", certificate_file=pki.server_key_file),)),
            BadConfig,
        ),
    ]
    for one, fault in bad:
        with pytest.raises(fault):
            await run_admin(one)
    assert not (tmp_path / "ledger.db").exists()
    for listener in held:
        await listener.aclose()


async def events_of(ledger: Ledger) -> list[str]:
    async with open_reader(ledger) as reader:
        return [event.tag for event in await reader.events(0, 100)]


# --- in a process of its own -----------------------------------------------------------------------------------


def settings_file(config: AdminConfig, directory: Path) -> Path:
    """The settings as an operator writes them."""

    def toml(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(toml(one) for one in value)}]"
        return json.dumps(value)

    plain = msgspec.to_builtins(config, enc_hook=str)
    tables = {name: value for name, value in plain.items() if isinstance(value, dict)}
    lines = [f"introspection-endpoint = {toml(plain['introspection-endpoint'])}"]
    for name, table in tables.items():
        flat = {key: value for key, value in table.items() if value is not None and not isinstance(value, dict)}
        lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in flat.items())]
        for inner, members in table.items():
            if isinstance(members, dict):
                lines += [f"[{name}.{inner}]", *(f"{key} = {toml(value)}" for key, value in members.items())]
    for one in plain["bootstrap"]:
        lines += ["[[bootstrap]]", *(f"{key} = {toml(value)}" for key, value in one.items())]
    path = directory / "admin.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def process(settings: Path, runtime: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "admin.cli", "admin", "--config", str(settings), "--runtime", str(runtime)]
    started = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def wait_for(path: Path, started: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + WITHIN
    while not path.exists():
        assert started.poll() is None, started.stderr and started.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    read: dict[str, Any] = json.loads(path.read_bytes())
    return read


def test_a_process_says_where_it_is_reloads_and_stops_in_order(config: AdminConfig, pki: Pki, tmp_path: Path) -> None:
    runtime = tmp_path / "admin.json"
    with process(settings_file(config, tmp_path), runtime) as started:
        told = wait_for(runtime, started)
        assert told["pid"] == started.pid
        os.kill(started.pid, signal.SIGHUP)
        with httpx2.Client(verify=pki.client_context(), timeout=WITHIN) as client:
            assert client.get(f"https://localhost:{told['ports']['public']}/jwks").status_code == 200
        with httpx2.Client(verify=pki.client_context("operator-1"), timeout=WITHIN) as client:
            suspended = client.post(
                f"https://localhost:{told['ports']['machine']}/participants/node-1/suspend",
                json={"reason": "a test"},
                headers={"Idempotency-Key": "key-00001"},
            )
            assert suspended.status_code == 200, suspended.text
        started.send_signal(signal.SIGTERM)
        assert started.wait(WITHIN) == 0
    trio.run(check_vouched_for, config.ledger, suspended.json()["position"]["seq"])


async def check_vouched_for(ledger: Ledger, last: int) -> None:
    """What was written while it ran is covered by the checkpoint that it made when it stopped."""
    async with open_reader(ledger) as reader:
        assert (await reader.head()).position.seq == last
        assert (await reader.checkpoints(0, 10))[-1].seq == last


def test_a_process_with_bad_settings_says_one_sentence(config: AdminConfig, tmp_path: Path) -> None:
    settings = settings_file(config, tmp_path)
    settings.write_text(settings.read_text().replace("token-1.pem", "absent.pem"))
    with process(settings, tmp_path / "admin.json") as started:
        _, said = started.communicate(timeout=WITHIN)
    assert started.returncode == 2
    assert said.decode().startswith("ccs: ")
    assert len(said.decode().splitlines()) == 1


@asynccontextmanager
async def silent_redis() -> AsyncIterator[tuple[str, list[str]]]:
    """A Redis that takes connections and says nothing, as one that is stopped: its address, and who gave up on it."""
    given_up: list[str] = []

    async def swallow(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass
        given_up.append("a caller")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, swallow, 0, host="127.0.0.1"))
        yield f"redis://127.0.0.1:{listener.socket.getsockname()[1]}", given_up
        nursery.cancel_scope.cancel()


async def test_a_start_does_not_wait_for_a_redis_that_says_nothing(config: AdminConfig, pki: Pki) -> None:
    async with silent_redis() as (url, given_up), running(changed(config, redis=Redis(url=url))) as ports:
        assert given_up == []  # the first call still stands, and is not waited for
        async with http(pki, ports.machine, "operator-1") as machine:
            assert (await machine.get("/participants")).status_code == 200
