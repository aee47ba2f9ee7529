"""What a process can serve without: metrics and logs are loaded beside its first requests.

structlog (which brings rich and asyncio) and prometheus_client make up a third of a worker's start. They are loaded
in a thread, so that requests go on; whoever needs the metrics waits for `telemetry_loaded` and imports them then.
"""

import trio

from engine.telemetry import logs


async def load_telemetry() -> None:
    """Return once both can be used without a pause."""
    await trio.to_thread.run_sync(_load)


def _load() -> None:
    logs.load()
    import engine.telemetry.metrics  # noqa: F401, PLC0415 - see the module's own words
