"""The guard: asked before every share, it asks the service, and knows what to do when nobody answers.

    async with Guard(config, memory=memory, evidence=evidence) as guard:
        verdict = await guard.check(share)

Runs on trio and on asyncio. One object for the process; `check` may be called by any number of tasks at once.
"""

from collections.abc import Sequence
from types import TracebackType

import msgspec

from engine.guard.config import GuardConfig
from engine.guard.evidence_words import Evidence
from engine.guard.memory import Memory
from engine.guard.shares import Share, Verdict


class GuardStatus(msgspec.Struct, frozen=True):
    """How things stand. Times: seconds since 1970. circuit: closed, buffering, probing, suspended or ramping.

    missing_since: pushed events are known to be missing since then, so that there is no fallback.
    """

    circuit: str
    outage_since: float | None
    outage_ends_at: float | None  # the cap: nothing is shared on what is known from then on
    next_probe_at: float | None
    missing_since: float | None
    addresses: tuple[str, ...]


class Guard:
    """May this share be made? Asks the service, and in an outage what was known."""

    def __init__(self, config: GuardConfig, *, memory: Memory, evidence: Evidence) -> None:
        self._config = config
        self._memory = memory
        self._evidence = evidence

    async def __aenter__(self) -> "Guard":
        """Read certificates and keys. Asks nobody yet. Raises BadConfig."""
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        raise NotImplementedError

    async def check(self, share: Share) -> Verdict:
        """One share. Takes up to 9.4 seconds where nobody answers, then says so. Raises nothing but cancellation."""
        raise NotImplementedError

    async def check_many(self, shares: Sequence[Share]) -> list[Verdict]:
        """Many shares, each a question of its own, in calls of up to 500; verdicts in their order. Raises as `check`.

        The first share of a token that was never introspected here is asked with the token itself.
        """
        raise NotImplementedError

    def status(self) -> GuardStatus:
        """A frozen record of now."""
        raise NotImplementedError
