"""Calls of the ledger's side that are repeated until they are answered: all of them may be."""

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from engine.backoff import Backoff
from engine.clock import Seconds
from engine.errors import Fault
from engine.pusher.service import LeaseHeld, LeaseLost
from engine.telemetry import logs

T = TypeVar("T")
BACKOFF: Final = Backoff(first=Seconds(0.05), limit=Seconds(2.0))

_log = logs.logger("pusher")


async def until_answered(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """The answer, however long it takes. Raises LeaseLost; every other fault is logged and the call made again."""
    failures = 0
    while True:
        try:
            return await call()
        except (LeaseLost, LeaseHeld):
            raise
        except Fault as fault:
            failures += 1
            _log.warning("call_failed", call=what, text=fault.text, detail=fault.detail, failures=failures)
        await trio.sleep(BACKOFF.delay(failures, random.random()))  # noqa: S311 - jitter, not a secret
