"""How a worker serves its handler: sockets it has inherited, limits from configuration, metrics, drain."""

import socket
from functools import partial
from typing import Final

import trio

from engine.clock import Clock, Seconds
from engine.config import Listener
from engine.listener.http1 import HeadLimits
from engine.listener.serve import Handler, Limits, Server, Statistics, serve
from engine.listener.tls import Credentials
from engine.node.descriptors import allow_descriptors
from engine.node.process import Process

FLUSH_EVERY: Final = Seconds(1.0)


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


async def serve_until_drained(process: Process, handler: Handler, clock: Clock) -> None:
    """Serve what the order says, report readiness, drain when told to. Raises BadTlsFiles before it is ready."""
    listener = process.order.config.listener
    credentials = Credentials(listener.tls.certificate_file, listener.tls.key_file, listener.tls.client_ca_file)
    process.on_reload(credentials.reload)
    sockets = [socket.socket(fileno=descriptor) for descriptor in process.order.sockets]
    limits = limits_of(listener, process.order.config.drain_timeout)
    run = partial(serve, handler, sockets, credentials, limits, clock=clock)
    async with trio.open_nursery() as measuring:
        async with trio.open_nursery() as serving:
            server: Server = await serving.start(run)
            process.on_reload(partial(_take_limits, process, server))
            measuring.start_soon(_keep_flushing, process, server)
            process.ready()
            await process.draining.wait()
            server.drain()
        measuring.cancel_scope.cancel()


def _take_limits(process: Process, server: Server) -> None:
    config = process.order.config
    server.limits = limits_of(config.listener, config.drain_timeout)
    allow_descriptors(config.listener.max_connections)


async def _keep_flushing(process: Process, server: Server) -> None:
    """Counts are kept as plain numbers while serving and given to the metrics once a second, and at the end."""
    await process.telemetry_loaded.wait()
    from engine.telemetry import metrics  # noqa: PLC0415 - not before the first requests

    server.observe = metrics.HANDLING.observe
    flushed = Statistics(0, 0, 0, 0, 0, {})
    try:
        while True:
            await trio.sleep(FLUSH_EVERY)
            flushed = _flush(flushed, server.statistics())
    finally:
        _flush(flushed, server.statistics())


def _flush(before: Statistics, now: Statistics) -> Statistics:
    from engine.telemetry import metrics  # noqa: PLC0415 - loaded by now

    metrics.CONNECTIONS.set(now.connections)
    metrics.ACCEPTED.inc(now.accepted - before.accepted)
    metrics.HANDSHAKES_FAILED.inc(now.handshakes_failed - before.handshakes_failed)
    metrics.OVERDUE.inc(now.overdue - before.overdue)
    metrics.HANDLER_ERRORS.inc(now.handler_errors - before.handler_errors)
    for status, count in now.answered.items():
        metrics.ANSWERED.labels(str(status)).inc(count - before.answered.get(status, 0))
    return now
