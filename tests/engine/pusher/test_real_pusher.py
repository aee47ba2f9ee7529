"""Real `ccs pusher` processes against a real outbox over HTTPS and receivers on real TLS: killed, reloaded, stopped."""

import base64
import hashlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from admin.cli.check_config import check_config
from admin.ledger.sql import open_ledger
from engine.consent.records import Certificate, ClientId, Role, Thumbprint
from engine.events.signing import new_event_key
from engine.pusher.service import Lane
from engine.pusher.service_calls import pusher_named
from engine.telemetry.host import SystemClock
from tests.support.ledger import ledger_config
from tests.support.outboxes import FAR, ISSUER, PUSHER, House
from tests.support.pki import Pki
from tests.support.push_receivers import ACCEPTED, Receiving, receiving
from tests.support.push_services import served
from tests.support.pushers import until

ROOT = Path(__file__).parents[3]
EDPS = tuple(f"edp-{n}" for n in range(1, 6))
SOON = 30.0  # against hanging
TAKEN_OVER = 5.0  # seconds: a lease of three, asked for each half second


class Process:
    """One `ccs pusher`. Its settings and key files are in a directory of its own."""

    def __init__(self, directory: Path, pki: Pki, feed_url: str, name: str, *, authority: Path | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.directory = directory / name
        self.directory.mkdir()
        self.config = self.directory / "pusher.toml"
        self.log = self.directory / "log"
        self.feed_authority = self.directory / "feed-ca.pem"
        self.feed_authority.write_bytes((authority or pki.ca_file).read_bytes())
        files = pki.client(PUSHER)
        self._text = f"""
pusher-id = "{PUSHER}"
issuer = "{ISSUER}"
event-key-files = [KEYS]
[feed]
url = "{feed_url}"
ca-file = "feed-ca.pem"
certificate-file = "{files.certificate_file}"
key-file = "{files.key_file}"
[outgoing]
ca-file = "{pki.ca_file}"
certificate-file = "{files.certificate_file}"
key-file = "{files.key_file}"
allow-private-addresses = true
[status]
port = {self.port}
"""
        self.keys(1)
        check_config(self.config)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "admin.cli", "pusher", "--config", str(self.config)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def keys(self, count: int) -> None:
        """Settings with so many event keys, the newest first."""
        names = [f"event-{n}.pem" for n in range(count, 0, -1)]
        for name in names:
            if not (self.directory / name).exists():
                (self.directory / name).touch(mode=0o600)
                (self.directory / name).write_bytes(new_event_key())
        self.config.write_text(self._text.replace("KEYS", ", ".join(f'"{name}"' for name in names)))

    async def status(self, page: str = "/statusz") -> Any:
        try:
            return json.loads(await trio.to_thread.run_sync(self._get, page))
        except (OSError, urllib.error.HTTPError):
            return {"state": "away"}

    def _get(self, page: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{page}", timeout=SOON) as answer:
            content: bytes = answer.read()
            return content

    async def reach(self, state: str) -> None:
        with trio.fail_after(SOON):
            while (await self.status())["state"] != state:
                assert self.process.poll() is None, self.log.read_text()
                await trio.sleep(0.05)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return await trio.to_thread.run_sync(self.process.wait, SOON)


class World:
    """A ledger with its outbox, receivers, and what they were sent."""

    def __init__(self, house: House, running: Receiving, directory: Path, pki: Pki, feed_url: str) -> None:
        self.house, self.running = house, running
        self._directory, self._pki, self._feed_url = directory, pki, feed_url
        self.pushers: list[Process] = []

    def pusher(self, name: str, *, authority: Path | None = None) -> Process:
        """authority: of the feed's server, as it believes; else the right one."""
        self.pushers.append(Process(self._directory, self._pki, self._feed_url, name, authority=authority))
        return self.pushers[-1]

    async def revoke_some(self, count: int) -> None:
        """Grants and ends of consents with all EDPs."""
        granted = [self.house.granting(edps=EDPS) for _ in range(count)]
        await self.house.write(*granted)
        await self.house.settle()
        await self.house.write(*[self.house.revoking(one.consent_id) for one in granted])
        await self.house.settle()

    async def all_pushed(self) -> None:
        """Until the outbox owes nothing by push."""
        with trio.fail_after(SOON):
            for edp in EDPS:
                for lane in Lane:
                    while await self.house.door.backlog(ClientId(edp), lane, 0, 1):  # noqa: ASYNC110 - no event says so
                        await trio.sleep(0.1)

    def events(self) -> dict[str, set[bytes]]:
        """Bytes by `jti`, heartbeats apart."""
        found: dict[str, set[bytes]] = {}
        for path, _, content in self.running.requests:
            claims = claims_of(content)
            if "ccs_seq" in claims:
                assert path == f"/{claims['aud']}"
                found.setdefault(claims["jti"], set()).add(content)
        return found

    async def made(self) -> dict[str, bytes | None]:
        """What the outbox has kept, by `jti`."""
        from sqlalchemy import text

        def read(connection: Any) -> dict[str, bytes | None]:
            rows = connection.execute(text("SELECT jti, compact FROM deliveries WHERE client_id LIKE 'edp-%'"))
            return {row.jti: row.compact for row in rows}

        return await self.house.ledger.database.read(read)


def claims_of(content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(content.split(b".")[1] + b"=="))
    return found


def kid_of(content: bytes) -> str:
    return str(json.loads(base64.urlsafe_b64decode(content.split(b".")[0] + b"=="))["kid"])


@asynccontextmanager
async def world_in(directory: Path, pki: Pki, *, fails: int = 0) -> AsyncIterator[World]:
    """fails: so many ends are answered 503 at first; they come again after five seconds."""
    clock = SystemClock()
    failed: set[bytes] = set()

    async def answer(_path: str, content: bytes) -> bytes:
        await trio.sleep(0.005)
        if b"consent-revoked" in base64.urlsafe_b64decode(content.split(b".")[1] + b"==") and len(failed) < fails:
            failed.add(content)
            return b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"
        return ACCEPTED

    config = ledger_config(directory, f"sqlite:///{directory}/ledger.db")
    async with (
        receiving(pki.server_context(), answer) as running,
        open_ledger(config, clock, wall=clock.wall) as ledger,
    ):
        house = House(ledger, clock)  # type: ignore[arg-type]  # has what a house reads of its clock
        await enrol(house, running, pki)
        async with served(house, pki) as feed_url:
            world = World(house, running, directory, pki, feed_url)
            try:
                yield world
            finally:
                for one in world.pushers:
                    await one.stop(signal.SIGKILL)


async def enrol(house: House, running: Receiving, pki: Pki) -> None:
    der = ssl.PEM_cert_to_DER_cert(pki.server_certificate_file.read_text())
    server = Certificate(Thumbprint(hashlib.sha256(der).digest()), FAR)
    await house.register(PUSHER, Role.PUSHER, certificates=(pki.client(PUSHER).certificate,))
    await house.register("atp-1", Role.ATP)
    for edp in EDPS:
        await house.register(edp, Role.EDP, certificates=(server,))
        await house.push_stream(edp, Role.EDP, endpoint_url=f"https://localhost:{running.port}/{edp}")
    await house.settle()


async def test_a_pusher_that_is_killed_under_load_is_followed_by_another_and_nothing_is_lost_or_changed(
    tmp_path: Path, pki: Pki
) -> None:
    async with world_in(tmp_path, pki, fails=3) as world:
        first = world.pusher("first")
        await first.reach("working")
        second = world.pusher("second")
        await second.reach("standby")
        async with trio.open_nursery() as nursery:

            async def load() -> None:
                for _ in range(12):
                    await world.revoke_some(5)
                    await trio.sleep(0.1)

            nursery.start_soon(load)
            await until(lambda: len(world.events()) >= 40, SOON)
            first.process.kill()
            killed = trio.current_time()
            await second.reach("working")
            took = trio.current_time() - killed
        await world.all_pushed()
        made = await world.made()
        assert len(made) == 12 * 5 * 2 * len(EDPS)
        events = world.events()
        assert events.keys() == made.keys()
        assert {jti: {compact} for jti, compact in made.items()} == events, "the same bytes, however often"
        assert took < TAKEN_OVER
        assert await second.stop() == 0
        log = second.log.read_text()
        assert "eyJ" not in log
        assert (await world.house.door.lease("another", None)).epoch > 0, "the lease was given up"


async def test_sighup_takes_a_new_event_key_once_it_is_published_and_old_bytes_stay(tmp_path: Path, pki: Pki) -> None:
    async with world_in(tmp_path, pki) as world:
        pusher = world.pusher("only")
        await pusher.reach("working")
        held = (await world.house.outbox.figures()).lease
        assert held is not None
        assert pusher_named(held.holder) == PUSHER
        await world.revoke_some(3)
        await world.all_pushed()
        before = world.events()
        pusher.keys(2)
        pusher.process.send_signal(signal.SIGHUP)
        await until(lambda: pusher.log.read_text().count("event_key_published") == 2, SOON)
        await world.revoke_some(3)
        await world.all_pushed()
        after = world.events()
        assert {jti: after[jti] for jti in before} == before
        old = {kid_of(content) for contents in before.values() for content in contents}
        new = {kid_of(content) for jti in after.keys() - before.keys() for content in after[jti]}
        assert len(old) == len(new) == 1
        assert old != new
        kids = [jwk.kid for jwk in await world.house.keys.published()]
        assert set(kids) == old | new

        (pusher.directory / "event-2.pem").write_bytes(b"no key")
        pusher.process.send_signal(signal.SIGHUP)
        await until(lambda: "reload_failed" in pusher.log.read_text(), SOON)
        assert (await pusher.status("/readyz")) == {"state": "working"}
        status = msgspec.convert(await pusher.status(), dict[str, Any])
        assert {one["client_id"] for one in status["receivers"]} == set(EDPS)
        metrics = (await trio.to_thread.run_sync(pusher._get, "/metrics")).decode()
        assert "ccs_push_working 1.0" in metrics
        assert 'ccs_push_attempts_total{lane="ends",outcome="taken"} 30.0' in metrics
        assert await pusher.stop(signal.SIGINT) == 0


async def test_sighup_takes_another_authority_of_the_feed(tmp_path: Path, pki: Pki) -> None:
    (tmp_path / "stranger").mkdir()
    stranger = Pki(tmp_path / "stranger").ca_file
    async with world_in(tmp_path, pki) as world:
        pusher = world.pusher("only", authority=stranger)
        await until(lambda: "event_key_not_registered" in pusher.log.read_text(), SOON)
        assert (await pusher.status())["state"] == "starting"
        pusher.feed_authority.write_bytes(stranger.read_bytes() + pki.ca_file.read_bytes())
        pusher.process.send_signal(signal.SIGHUP)
        await pusher.reach("working")

        pusher.feed_authority.write_bytes(b"no certificate")
        pusher.process.send_signal(signal.SIGHUP)
        await until(lambda: "reload_failed" in pusher.log.read_text(), SOON)
        await world.revoke_some(1)
        await world.all_pushed()
        pusher.feed_authority.write_bytes(stranger.read_bytes())
        pusher.process.send_signal(signal.SIGHUP)
        await until(lambda: "lease_not_renewed" in pusher.log.read_text(), SOON)
        assert await pusher.stop() == 0


async def test_a_pusher_that_nobody_answers_waits_and_one_with_wrong_settings_ends(tmp_path: Path, pki: Pki) -> None:
    pusher = Process(tmp_path, pki, "https://localhost:1/feed", "wrong")
    await pusher.reach("starting")
    assert await pusher.stop() == 0
    (pusher.directory / "event-1.pem").chmod(0o644)
    done = await trio.run_process(
        [sys.executable, "-m", "admin.cli", "pusher", "--config", str(pusher.config)],
        cwd=ROOT, capture_stderr=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"others than its owner may read this key" in done.stderr
