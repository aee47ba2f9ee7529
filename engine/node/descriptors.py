"""Open files: a connection is one, and systems start services with room for about a thousand."""

import resource
from typing import Final

from engine.telemetry import logs

SPARE: Final = 256  # listening sockets, replica, Redis, feed, metric files, pipes

_log = logs.logger("node")


def allow_descriptors(connections: int) -> None:
    """Raise this process's soft limit, which its children inherit, as far as the hard one lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning("fewer_connections_than_configured", open_files=allowed, wanted=wanted)
