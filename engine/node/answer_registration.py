"""Keeps the node's newest answer key registered with the issuer: at once, again after a failure, and once a day.

Done by the feeder, the one process that a node has once. Until the first acknowledgement nothing is signed; later
the key stays published for weeks without another, so a feed service that is away stops no answers.
"""

from collections.abc import Callable
from typing import Final, Protocol

import trio

from engine.backoff import Backoff
from engine.clock import Clock, Seconds, UnixTime
from engine.errors import Fault
from engine.node.answer_key_files import AnswerKeyFiles, KeptKey
from engine.telemetry import logs
from engine.tokens.answer_key_statements import make_statement

LOOK_EVERY: Final = Seconds(5.0)  # for a newer file: a rotation needs no signal
AGAIN_AFTER: Final = 86_400  # seconds; a key's publication outlasts a month of failures
BACKOFF: Final = Backoff(first=Seconds(0.5), limit=Seconds(60.0))

_log = logs.logger("answers")


class Registrar(Protocol):
    """What is needed of `feed_access.FeedAccess`."""

    async def register_answer_key(self, statement: bytes) -> tuple[str, int]:
        """The key's kid, and until when it is published. Raises Fault."""


class AnswerRegistration:
    """jitter: draws from [0, 1)."""

    def __init__(
        self,
        files: AnswerKeyFiles,
        registrar: Registrar,
        *,
        node_id: str,
        issuer: str,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self._files = files
        self._registrar = registrar
        self._node_id = node_id
        self._issuer = issuer
        self._clock = clock
        self._jitter = jitter
        self.published_until = UnixTime(0)  # of the newest key; 0: not published

    async def run(self) -> None:
        """For ever."""
        failures = 0
        while True:
            try:
                await self.once()
            except Fault as fault:
                failures += 1
                _log.warning("answer_key_not_registered", text=fault.text, detail=fault.detail, failures=failures)
                await trio.sleep(BACKOFF.delay(failures + 1, self._jitter()))
            else:
                failures = 0
                await trio.sleep(LOOK_EVERY)

    async def once(self) -> None:
        """Register the newest key where that is due. Raises Fault."""
        keys = self._files.read()
        if not keys:
            return
        newest, now = keys[0], self._clock.now()
        if _is_due(newest, now):
            statement = make_statement(newest.signer, self._node_id, self._issuer, now)
            _, until = await self._registrar.register_answer_key(statement)
            self._files.acknowledge(newest, now, UnixTime(until))
            self.published_until = UnixTime(until)
            _log.info("answer_key_published", kid=newest.signer.kid, until=until)
        elif newest.acknowledged is not None:
            self.published_until = newest.acknowledged.until


def _is_due(key: KeptKey, now: UnixTime) -> bool:
    word = key.acknowledged
    return word is None or not word.at <= now < word.at + AGAIN_AFTER
