"""Claims of one-off consents through the feed service, while an EDP waits whose own time-out is two seconds.

A claim is made in a task of its own, because a connection that is being opened cannot be given up at once; the
request waits for it a bounded time. A feed service that let one request wait in vain is not waited for by those
that follow: they are told to ask again, and one in a while tries.
"""

from typing import Final, Protocol

import trio

from engine.backoff import Breaker
from engine.clock import Seconds
from engine.consent.records import ClientId, ConsentId
from engine.decision.questions import ClaimResult
from engine.errors import Fault
from engine.telemetry import logs
from engine.telemetry.floods import Floods

CLAIM_TIMEOUT: Final = Seconds(0.75)  # with `introspection.LOOK_TIMEOUT` within `introspection.STEPS_TIMEOUT`
REST: Final = Seconds(1.0)  # as the 503 says: Retry-After

_log = logs.logger("worker")


class ClaimService(Protocol):
    """What is needed of `feed_access.FeedAccess`."""

    async def claim(self, consent_id: str, edp: str, share_id: str) -> bool:
        """Whether this share holds the consent, now or from before. Raises Fault."""


class _Claim:
    """One under way. The same claim may be made again, so one that nobody waits for any more does no harm."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.result = ClaimResult.UNREACHABLE


class FeedClaims:
    """`engine.listener.introspection.Claims` through the feed service. aside: runs the claims under way."""

    def __init__(self, feed: ClaimService, aside: trio.Nursery) -> None:
        self._feed = feed
        self._aside = aside
        self._breaker = Breaker(REST)
        self._floods = Floods()

    async def claim(self, consent_id: ConsentId, edp: ClientId, share_id: str) -> ClaimResult:
        """HELD, TAKEN or UNREACHABLE, the last after CLAIM_TIMEOUT or, soon after another such wait, at once."""
        if not self._breaker.admits(trio.current_time()):
            return ClaimResult.UNREACHABLE
        claim = _Claim()
        self._aside.start_soon(self._make, claim, consent_id, edp, share_id)
        with trio.move_on_after(CLAIM_TIMEOUT):
            await claim.ended.wait()
            return claim.result
        self._breaker.failed(trio.current_time())
        self._warn("the feed service takes too long")
        return ClaimResult.UNREACHABLE

    async def _make(self, claim: _Claim, consent_id: ConsentId, edp: ClientId, share_id: str) -> None:
        try:
            held = await self._feed.claim(consent_id, edp, share_id)
        except Fault as fault:
            self._warn(fault.text, fault.detail)
        else:
            self._breaker.succeeded()
            claim.result = ClaimResult.HELD if held else ClaimResult.TAKEN
        claim.ended.set()

    def _warn(self, text: str, detail: str = "") -> None:
        left_out = self._floods.admit("claim_failed", trio.current_time())
        if left_out is not None:
            _log.warning("claim_failed", text=text, detail=detail, left_out=left_out)
