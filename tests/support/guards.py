"""A guard that says what it was told to, for tests of what stands around it."""

from collections.abc import Callable, Sequence

import msgspec
import trio

from engine.guard.shares import Reason, Share, Verdict
from engine.telemetry.guard_health import GuardHealth

HEALTH = GuardHealth(client_id="edp-1", circuit="closed", addresses=())


def consented(share: Share) -> Verdict:
    return Verdict(allowed=True, reason=Reason.CONSENTED, evidence_id=f"e-{share.share_id}", freshness="current")


def refusing(reason: Reason) -> Callable[[Share], Verdict]:
    """Says no to everything, for one reason."""
    return lambda _share: Verdict(allowed=False, reason=reason, evidence_id="e")


class ToldJudge:
    """A `sidecar.Judge`. verdict: of each share. gate: answers wait for it."""

    def __init__(self, verdict: Callable[[Share], Verdict] = consented) -> None:
        self.verdict = verdict
        self.asked: list[Share] = []
        self.arrived = trio.Event()
        self.gate = trio.Event()
        self.gate.set()

    async def check(self, share: Share) -> Verdict:
        self.asked.append(share)
        self.arrived.set()
        await self.gate.wait()
        return self.verdict(share)

    async def check_many(self, shares: Sequence[Share]) -> list[Verdict]:
        return [await self.check(share) for share in shares]


class ToldHealth:
    """Health that a test may change."""

    def __init__(self) -> None:
        self.now = HEALTH

    def __call__(self) -> GuardHealth:
        return self.now

    def change(self, **members: object) -> None:
        self.now = msgspec.structs.replace(self.now, **members)
