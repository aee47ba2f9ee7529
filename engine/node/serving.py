"""How a worker serves its handler: sockets it has inherited, limits from configuration, metrics, drain."""

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from engine.clock import Clock, Seconds
from engine.config import Listener
from engine.listener.http1 import HeadLimits
from engine.listener.serve import Gate, Handler, Limits, Server, Statistics, serve
from engine.listener.tls import Credentials
from engine.node.descriptors import allow_descriptors
from engine.node.process import Process

FLUSH_EVERY: Final = Seconds(1.0)
_BY: Final = "answered"  # the one count that is by something


def limits_of(listener: Listener, drain_timeout: Seconds) -> Limits:
    """The configured limits in the listener's own words."""
    return Limits(
        http=HeadLimits(listener.max_head, listener.max_body),
        max_connections=listener.max_connections,
        idle_timeout=listener.idle_timeout,
        request_timeout=listener.request_timeout,
        handshake_timeout=listener.handshake_timeout,
        drain_timeout=drain_timeout,
    )


async def serve_until_drained(
    process: Process, handler: Handler, clock: Clock, proxied: Handler | None = None, gate: Gate | None = None
) -> None:
    """Serve what the order says, report readiness, drain when told to. Raises BadTlsFiles before it is ready.

    proxied: answers on the proxy's listener, where there is one. gate: judges the listener's own peers.
    """
    listener = process.order.config.listener
    credentials = Credentials(listener.tls.certificate_file, listener.tls.key_file, listener.tls.client_ca_file)
    process.on_reload("listener.tls", credentials.reload)
    sockets = [socket.socket(fileno=descriptor) for descriptor in process.order.sockets]
    limits = limits_of(listener, process.order.config.drain_timeout)
    run = partial(serve, handler, sockets, credentials, limits, clock=clock, balance=process.balance, gate=gate)
    async with trio.open_nursery() as measuring:
        async with trio.open_nursery() as serving:
            servers: list[Server] = [await serving.start(run)]
            if proxied is not None:
                servers.append(await serving.start(_serving_proxies(process, proxied, clock)))
            process.on_reload("listener", partial(_take_limits, process, servers))
            measuring.start_soon(_keep_flushing, process, servers)
            process.ready()
            await process.draining.wait()
            for server in servers:
                server.drain()
        measuring.cancel_scope.cancel()


def _serving_proxies(process: Process, handler: Handler, clock: Clock) -> Callable[..., Awaitable[None]]:
    """Raises BadTlsFiles. The limits are the listener's; changed files are taken by fresh workers."""
    config = process.order.config
    assert config.proxy_listener is not None  # noqa: S101 - else nobody has a handler for it
    tls = config.proxy_listener.tls
    credentials = Credentials(tls.certificate_file, tls.key_file, tls.client_ca_file)
    sockets = [socket.socket(fileno=descriptor) for descriptor in process.order.proxy_sockets]
    return partial(serve, handler, sockets, credentials, limits_of(config.listener, config.drain_timeout), clock=clock)


def _take_limits(process: Process, servers: list[Server]) -> None:
    config = process.order.config
    for server in servers:
        server.limits = limits_of(config.listener, config.drain_timeout)
    allow_descriptors(config.listener.max_connections)


async def _keep_flushing(process: Process, servers: list[Server]) -> None:
    """Counts are kept as plain numbers while serving and given to the metrics once a second, and at the end."""
    await process.telemetry_loaded.wait()
    from engine.telemetry import metrics  # noqa: PLC0415 - not before the first requests

    for server in servers:
        server.observe = metrics.HANDLING.observe
    flushed = Statistics(0, 0, 0, 0, 0, {})
    try:
        while True:
            await trio.sleep(FLUSH_EVERY)
            flushed = _flush(flushed, total(servers))
    finally:
        _flush(flushed, total(servers))


def total(servers: list[Server]) -> Statistics:
    """What they have counted, together."""
    each = [server.statistics() for server in servers]
    counted = {name: sum(getattr(one, name) for one in each) for name in Statistics.__struct_fields__ if name != _BY}
    statuses = sorted({status for one in each for status in one.answered})
    return Statistics(answered={at: sum(one.answered.get(at, 0) for one in each) for at in statuses}, **counted)


def _flush(before: Statistics, now: Statistics) -> Statistics:
    from engine.telemetry import metrics  # noqa: PLC0415 - loaded by now

    metrics.CONNECTIONS.set(now.connections)
    metrics.ACCEPTED.inc(now.accepted - before.accepted)
    metrics.HANDSHAKES_FAILED.inc(now.handshakes_failed - before.handshakes_failed)
    metrics.OVERDUE.inc(now.overdue - before.overdue)
    metrics.SHED.inc(now.shed - before.shed)
    metrics.TURNED_AWAY.inc(now.turned_away - before.turned_away)
    metrics.HANDLER_ERRORS.inc(now.handler_errors - before.handler_errors)
    for status, count in now.answered.items():
        metrics.ANSWERED.labels(str(status)).inc(count - before.answered.get(status, 0))
    return now
