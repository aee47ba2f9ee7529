"""Main of the pusher process: `ccs pusher --config FILE`.

SIGTERM and SIGINT drain: nothing more is begun, what is under way ends, the lease is given up. SIGHUP reads
certificates and event keys again, the list of key files too; every other setting takes a restart.
"""

import contextlib
import random
import resource
import secrets
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import trio

from engine.clock import Seconds
from engine.config import BadConfig
from engine.errors import Fault
from engine.listener.serve import Server, serve
from engine.pusher.config import LedgerSide, Outgoing, PusherConfig, load_pusher_config
from engine.pusher.egress import Egress, EgressConfig
from engine.pusher.event_keys import EventKeys, read_event_keys
from engine.pusher.garbage import make_rounds_rare
from engine.pusher.over_https import HttpsPushService
from engine.pusher.service_calls import holder_named
from engine.pusher.status import LIMITS, StatusPages, listen
from engine.pusher.work import Pusher, PusherSettings
from engine.telemetry import logs, pusher_metrics
from engine.telemetry.host import SystemClock

DESCRIPTORS: Final = 16_384  # eight connections of two thousand receivers
KEYS_EVERY: Final = Seconds(5.0)

_log = logs.logger("pusher")


def run_pusher(config: PusherConfig, path: Path) -> None:
    """Until SIGTERM or SIGINT. path: of the settings, to be read again. Raises BadConfig."""
    logs.configure(config.log_level, role="pusher", pusher_id=config.pusher_id)
    _allow_descriptors()
    process = _Process(config, path)
    make_rounds_rare()
    trio.run(process.run)


def client_tls(files: LedgerSide | Outgoing, name: str) -> ssl.SSLContext:
    """Our certificate and the other side's authority. Raises BadConfig."""
    try:
        tls = ssl.create_default_context(cafile=str(files.ca_file))
        tls.load_cert_chain(files.certificate_file, files.key_file)
    except (OSError, ssl.SSLError) as error:
        named = f"{files.certificate_file}, {files.key_file}, {files.ca_file}"
        raise BadConfig(f"{name}: {named} cannot be read: {error}") from error
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.set_alpn_protocols(["http/1.1"])
    return tls


class _Process:
    """Everything that a pusher is made of. Raises BadConfig where a file cannot be used."""

    def __init__(self, config: PusherConfig, path: Path) -> None:
        self._config = config
        self._path = path
        self._clock = SystemClock()
        self._service = HttpsPushService(config.feed.url, client_tls(config.feed, "feed"))
        outgoing = config.outgoing
        self._egress = Egress(
            client_tls(outgoing, "outgoing"), EgressConfig(allow_private=outgoing.allow_private_addresses)
        )
        self._keys = EventKeys(
            read_event_keys(config.event_key_files),
            self._service,
            pusher_id=config.pusher_id,
            issuer=config.issuer,
            wall=self._clock.wall,
            jitter=random.random,
        )
        settings = PusherSettings(
            issuer=config.issuer, bulk_rate=outgoing.bulk_rate, drain_timeout=config.drain_timeout
        )
        holder = holder_named(config.pusher_id, secrets.token_bytes(8))
        self._pusher = Pusher(self._service, self._egress, self._keys.signer, settings, self._clock, holder=holder)
        self._listening = listen(config.status)

    async def run(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                nursery.start_soon(self._keys.run)
                nursery.start_soon(self._watch_keys)
                nursery.start_soon(self._egress.sweep)
                server = await nursery.start(self._serve_status)
                await self._push()
                server.drain()
                nursery.cancel_scope.cancel()
        self._egress.close()
        _log.info("stopped")

    async def _push(self) -> None:
        """Not before an event key is published; SIGTERM ends that wait too."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._begin)
            await self._pusher.run()
            nursery.cancel_scope.cancel()

    async def _begin(self) -> None:
        await self._keys.wait_ready()
        self._pusher.begin()

    async def _serve_status(self, *, task_status: trio.TaskStatus[Server]) -> None:
        pages = StatusPages(self._config.pusher_id, self._pusher.status, self._clock.wall)
        _log.info("status_served", port=self._listening.getsockname()[1])
        await serve(pages, [self._listening], None, LIMITS, clock=self._clock, task_status=task_status)

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                await self._reload()
            else:
                _log.info("draining")
                self._pusher.stop()

    async def _reload(self) -> None:
        """All or nothing: a file that cannot be read leaves everything as it was."""
        try:
            config = load_pusher_config(self._path)
            keys = read_event_keys(config.event_key_files)
            outgoing, feed = client_tls(config.outgoing, "outgoing"), client_tls(config.feed, "feed")
            logs.configure(config.log_level, role="pusher", pusher_id=config.pusher_id)
        except (Fault, OSError, ssl.SSLError) as error:
            _log.error("reload_failed", text=error.text if isinstance(error, Fault) else str(error), taken=[])
            return
        await self._service.renew(feed)
        self._egress.reload(outgoing)
        self._keys.change(keys)
        _log.info("reloaded")

    async def _watch_keys(self) -> None:
        while True:
            pusher_metrics.KEY_UNTIL.set(self._keys.published_until)
            await trio.sleep(KEYS_EVERY)


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # then fewer receivers at once
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
