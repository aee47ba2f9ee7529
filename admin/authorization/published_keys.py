"""The issuer's key sets as they stand now: its own token keys, then the keys that nodes sign their answers with; and,
apart from these, the keys of pushed events.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from admin.authorization.metadata import key_set
from engine.clock import Seconds
from engine.errors import Fault
from engine.telemetry.logs import logger
from engine.tokens.keys import Jwk

KEEP: Final = Seconds(1.0)  # anybody may ask, at any pace; a node's new key shows within a second

_log = logger("issuer")


class KeySetText:
    """answers: reads the keys that others registered; may raise a Fault, and then the set stays as it was.

    what: the word for them in the log.
    """

    def __init__(
        self, tokens: Sequence[Jwk], answers: Callable[[], Awaitable[Sequence[Jwk]]], what: str = "answer_keys"
    ) -> None:
        self._what = what
        self._tokens = tuple(tokens)
        self._answers = answers
        self._text = key_set(self._tokens)
        self._stale_at = -1.0
        self._reading = trio.Lock()

    async def read(self) -> bytes:
        """The JWKS text."""
        async with self._reading:  # one reading serves all who wait for it
            if trio.current_time() >= self._stale_at:
                await self._refresh()
            return self._text

    async def _refresh(self) -> None:
        try:
            self._text = key_set((*self._tokens, *await self._answers()))
        except Fault as fault:
            _log.warning("registered_keys_not_read", what=self._what, text=fault.text, detail=fault.detail)
        self._stale_at = trio.current_time() + KEEP
