"""The admin application put together: the one place that opens things and hands them to each other.

Three listeners, three applications: browsers of consumers, machines with client certificates, operators. They share
nothing but the parts they are given, so that a page of one can never be reached through another.
"""

import os
import re
import secrets
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import time
from typing import Final
from urllib.parse import urlsplit

import msgspec
import trio
from quart import Blueprint, Request, Response, request

from admin.authorization.metadata import metadata
from admin.authorization.minting import Minter
from admin.authorization.published_keys import KeySetText
from admin.authorization.sandbox import Sandbox
from admin.authorization.views import public_views, sandbox_views
from admin.background import Background
from admin.bootstrap import first_participants, publish_keys, register_first
from admin.callers import Callers
from admin.client_certificates import serve
from admin.config import AdminConfig, Disputes, Web
from admin.consents.end_all import EndAll, end_all_views
from admin.consents.listing import Listings
from admin.consents.listing_views import listing_views
from admin.consents.parties import Parties
from admin.consents.service import Consents
from admin.consents.views import consent_views
from admin.directory.policy import policy_views
from admin.directory.poll_views import Polls, poll_views
from admin.directory.pushing_views import pushing_views
from admin.directory.receiver_views import receiver_views
from admin.directory.service import Directory
from admin.directory.ssf_discovery import ssf_views
from admin.directory.stream_forms import Face
from admin.directory.stream_views import Receivers, stream_views
from admin.directory.views import directory_views
from admin.disputes.answering import AnswerTerm
from admin.edge import EdgeApp, edge_app
from admin.keys import Secrets, load_secrets
from admin.ledger.atp_consents import AtpConsents
from admin.ledger.barrier import Barrier
from admin.ledger.fallback_reports import FallbackReports
from admin.ledger.feed_service import FeedService, feed_blueprint
from admin.ledger.instances import Member
from admin.ledger.pace import Pace
from admin.ledger.pusher_calls import pusher_blueprint
from admin.ledger.reports import Reports
from admin.ledger.sql import SqlLedger, open_ledger
from admin.listeners import CannotListen, listen, port_of, renew_certificate, tls_context
from admin.measured import MeasuredBarrier, MeasuredLedger
from admin.metrics import FEED_CALLS
from admin.openapi import describe
from admin.pages import NodeRow, Status, landing_views, status_views
from admin.recovery.reading import RecoveryReader
from admin.recovery.service import RecoveryService
from admin.recovery.views import recovery_views
from admin.reports.fallback import Fallback
from admin.reports.views import report_views
from admin.scraping import ObservedOutbox, Observer, metrics_views
from admin.working_days import WorkingDays
from admin.writing import place
from engine.clock import Clock, format_utc
from engine.consent.records import ParticipantRecord
from engine.telemetry.host import SystemClock
from engine.telemetry.logs import logger

TITLE: Final = "Consumer Consent Solution: machine API"
VERSION: Final = "1"

_PORT: Final = re.compile(r":[0-9]*$")  # an IPv6 address keeps its brackets

_log = logger("admin")


class Ports(msgspec.Struct, frozen=True):
    """Where the listeners are, once they are open."""

    public: int
    machine: int
    console: int


class Runtime(msgspec.Struct, frozen=True):
    """What stands in `admin.json`."""

    pid: int
    ports: Ports


class Listening(msgspec.Struct, frozen=True):
    """One listener's sockets and TLS."""

    listeners: list[trio.SocketListener]
    tls: ssl.SSLContext


async def run_admin(
    config: AdminConfig, runtime: Path | None = None, *, task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the admin application until SIGTERM or SIGINT, then drain; started = all listeners accept.

    runtime: a file that is then written, with process id and ports.

    SIGHUP reads the certificate files anew, for connections to come. Raises CannotListen, BadKeyFile, BadConfig,
    WrongLedger, WrongPersonKey, NoLedger, LedgerUnavailable, LedgerDamaged before it is started, GaveUp in a group
    afterwards.
    """
    clock = SystemClock()
    started = clock.now()
    keys, first = load_secrets(config), first_participants(config.bootstrap, clock.now())
    may_begin = config.ledger.kind == "sandbox" and not config.ledger.must_exist
    async with _listening(config.web) as sockets, open_ledger(config.ledger, clock, may_begin=may_begin) as ledger:
        holds_nothing = (await ledger.head()).position.seq == 1
        await register_first(ledger, first)
        await publish_keys(ledger, keys, config.issuer, clock.now())
        (oldest,) = await ledger.events(0, 1)
        await tell_recovery(ledger)
        background = Background(config, ledger, keys, clock, is_new=holds_nothing or oldest.recorded_at >= started)
        face = face_of(config, port_of(sockets[1].listeners))
        apps = (
            public_app(config, keys, background, face),
            machine_app(*machine_blueprints(config, ledger, keys, background, clock, face)),
            console_app(config, ledger, background, clock),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(background.run)
            await _serve_until_stopped(apps, sockets, config, partial(_tell, task_status, runtime))
            nursery.cancel_scope.cancel()
        await background.vouching.try_once()


async def tell_recovery(ledger: SqlLedger) -> None:
    """Say loudly that the ledger is recovering, if it is: nobody is served as usual until an operator acts."""
    recovery = await RecoveryReader(ledger).recovery()
    if recovery is not None:
        gap_from, gap_to = format_utc(recovery.gap_from), format_utc(recovery.gap_to)
        _log.warning("ledger_recovering", gap_from=gap_from, gap_to=gap_to)


def face_of(config: AdminConfig, machine_port: int) -> Face:
    """What receivers are told of where the service is."""
    host = urlsplit(config.issuer.issuer).netloc.rpartition("@")[2]
    there = f"https://{_PORT.sub('', host)}:{machine_port}"
    return Face(config.issuer.issuer, config.web.machine_url or there)


def public_app(config: AdminConfig, keys: Secrets, background: Background, face: Face) -> EdgeApp:
    """Metadata, keys and the landing page: what anybody may see."""
    app = edge_app()
    document = metadata(config.issuer.issuer, config.introspection_endpoint)
    jwks = KeySetText([signer.public for signer in keys.token_signers], background.answer_keys.published)
    event_jwks = KeySetText((), background.event_keys.published, "event_keys")
    app.register_blueprint(public_views(document, jwks.read, event_jwks.read))
    app.register_blueprint(ssf_views(face))
    app.register_blueprint(landing_views(config.ledger.kind, background.recovery.recovery))
    return app


def machine_app(*blueprints: Blueprint) -> EdgeApp:
    """The machine listener's application, with its OpenAPI document."""
    app = edge_app()
    describe(app, title=TITLE, version=VERSION)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    return app


def machine_blueprints(
    config: AdminConfig, ledger: SqlLedger, keys: Secrets, background: Background, clock: Clock, face: Face
) -> list[Blueprint]:
    """Everything that machines may call."""
    kind = config.ledger.kind
    callers, measured = Callers(ledger, clock.now), MeasuredLedger(ledger)
    barrier = MeasuredBarrier(Barrier(background.register))
    consents = Consents(measured, keys.meter, clock.now)
    recovery = RecoveryService(measured, background.recovery, clock.now, answer_term(config.disputes))
    receivers, streams = Receivers(callers, clock.now), background.streams
    minter = Minter(keys.issuer, keys.token_signers[0], config.issuer.token_lifetime)
    return [
        directory_views(Directory(measured, callers), callers, clock.now),
        policy_views(measured, callers, clock.now),
        consent_views(consents, callers, barrier, kind, clock.now),
        sandbox_views(Sandbox(consents, minter, background.token_records, clock.now), callers, kind, clock.now),
        recovery_views(recovery, background.recovery, callers, clock.now),
        fallback_views(ledger, background, callers, clock),
        feed_views(ledger, keys, background, callers, recovery),
        pusher_views(background, callers),
        stream_views(streams, receivers, face),
        poll_views(streams, receivers, Polls(background.outbox, lambda: secrets.token_hex(16))),
        receiver_views(measured, background.standings, callers, clock.now),
        pushing_views(background.outbox.figures, background.standings, callers, clock.now),
        listing_views(Listings(ledger, ledger.database, background.recovery), callers),
        end_all_views(
            EndAll(
                measured, AtpConsents(ledger.database, clock.now).active, Pace(ledger.database, background.outbox.news)
            ),
            Parties(callers, clock.now),
        ),
    ]


def answer_term(disputes: Disputes) -> AnswerTerm:
    """How long ATPs have to answer a dispute."""
    return AnswerTerm(disputes.answer_working_days, WorkingDays(frozenset(disputes.further_bank_holidays)))


def fallback_views(ledger: SqlLedger, background: Background, callers: Callers, clock: Clock) -> Blueprint:
    """Reports of what EDPs shared in outages."""

    async def members() -> Iterable[Member]:
        return (await background.register.view()).members.values()

    kept = FallbackReports(ledger.database, time)
    return report_views(Fallback(ledger, kept, background.claims, members), kept, callers, clock.now)


def feed_views(
    ledger: SqlLedger, keys: Secrets, background: Background, callers: Callers, recovery: RecoveryService
) -> Blueprint:
    """The feed over HTTPS, for nodes."""

    async def published() -> bytes:
        return keys.published

    async def authenticate(asked: Request) -> ParticipantRecord:
        return (await callers.authenticate(asked.scope)).participant

    reports = Reports(ledger.database, time)
    service = FeedService(
        ledger,
        background.register,
        background.claims,
        reports,
        background.sealer,
        published,
        background.answer_keys,
        recovery.take_from_nodes,
        background.recovery.refuse_claims,
    )
    views = feed_blueprint(service, authenticate)
    views.after_request(count_feed_call)
    return views


def pusher_views(background: Background, callers: Callers) -> Blueprint:
    """The outbox over HTTPS, for the pusher."""

    async def authenticate(asked: Request) -> ParticipantRecord:
        return (await callers.authenticate(asked.scope)).participant

    views = pusher_blueprint(background.outbox, background.event_keys, authenticate)
    views.after_request(count_pusher_call)
    return views


async def count_pusher_call(response: Response) -> Response:
    """By the name of its view: `pusher_fresh`, `pusher_lease` …"""
    FEED_CALLS.labels((request.endpoint or "").replace(".", "_")).inc()
    return response


async def count_feed_call(response: Response) -> Response:
    """By the name of its view: `snapshot`, `entries`, `check` …"""
    FEED_CALLS.labels((request.endpoint or "").removeprefix("feed.")).inc()
    return response


def console_app(config: AdminConfig, ledger: SqlLedger, background: Background, clock: Clock) -> EdgeApp:
    """The status page, and metrics for scrapers on this machine."""
    app = edge_app()

    async def status() -> Status:
        view = await background.register.view()
        heard, now = background.register.presence.last_heard, time()
        return Status(
            as_of=format_utc(clock.now()),
            kind=config.ledger.kind,
            position=place(view.position),
            nodes=tuple(_row(member, view.position.seq, heard(member), now) for member in view.members.values()),
            work=tuple(background.work()),
            recovering=await background.recovery.in_words(),
        )

    app.register_blueprint(status_views(status))
    projector = None if background.projector is None else background.projector.statistics
    links = {name: link.statistics for name, link in background.links.items()}
    outbox = ObservedOutbox(background.sequencer.statistics, background.outbox.figures)
    record = config.ledger.backup_record
    observer = Observer(ledger, projector, links, background.recovery, record, outbox)
    app.register_blueprint(metrics_views(observer.observe))
    return app


def _tell(task_status: trio.TaskStatus[Ports], runtime: Path | None, ports: Ports) -> None:
    if runtime is not None:  # readers see the old file or the new one, never a part
        fresh = runtime.with_name(runtime.name + ".new")
        fresh.write_bytes(msgspec.json.encode(Runtime(os.getpid(), ports)))
        fresh.replace(runtime)
    _log.info("ready", public=ports.public, machine=ports.machine, console=ports.console)
    task_status.started(ports)


def _row(member: Member, head: int, last_heard: float, now: float) -> NodeRow:
    return NodeRow(
        node_id=member.node_id,
        state=member.state.value,
        applied=member.applied,
        behind=max(0, head - member.applied),
        silent_for=f"{max(0.0, now - last_heard):.1f}",
    )


@asynccontextmanager
async def _listening(web: Web) -> AsyncIterator[list[Listening]]:
    """Public, machine, console; only machines are asked for a certificate. Raises CannotListen."""
    plain = tls_context(web.tls, client_certificates=False)
    mutual = tls_context(web.tls, client_certificates=True)
    opened: list[Listening] = []
    try:
        for port, tls in ((web.public_port, plain), (web.machine_port, mutual), (web.console_port, plain)):
            opened.append(Listening(await listen(web.host, port), tls))
        yield opened
    finally:
        for listener in (one for listening in opened for one in listening.listeners):
            await trio.aclose_forcefully(listener)


async def _serve_until_stopped(
    apps: Sequence[EdgeApp],
    sockets: Sequence[Listening],
    config: AdminConfig,
    tell: Callable[[Ports], None],
) -> None:
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            for app, on in zip(apps, sockets, strict=True):
                await nursery.start(partial(serve, app, on.listeners, on.tls, stop=stop))
            tell(Ports(*(port_of(on.listeners) for on in sockets)))
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                _reload(sockets, config)
            _log.info("draining")
            stop.set()


def _reload(sockets: Sequence[Listening], config: AdminConfig) -> None:
    """Take the certificate files as they are now; a bad one leaves the old in place."""
    try:
        renew_certificate([on.tls for on in sockets], config.web.tls)
    except CannotListen as fault:
        _log.error("reload_failed", text=fault.text, taken=[])
    else:
        _log.info("reloaded")
