"""Ledger and barrier with a watch beside them: the same calls, counted and timed for the metrics."""

from collections.abc import Sequence
from typing import Final

import trio

from admin import metrics
from admin.consents.revocations import Waits
from admin.edge import code_of
from admin.ledger.barrier import Effect, Standing
from admin.ledger.store import Append, Idempotency, Ledger, Receipt
from engine.clock import Seconds
from engine.errors import Fault

RECORDED: Final = "recorded"


class MeasuredLedger:
    """A ledger whose appends are counted; reading is handed on as it is."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.head = ledger.head
        self.events = ledger.events
        self.subject = ledger.subject
        self.subjects = ledger.subjects
        self.records = ledger.records
        self.replayed = ledger.replayed
        self.wait_beyond = ledger.wait_beyond
        self.erase_person = ledger.erase_person

    async def append(self, events: Sequence[Append], idempotency: Idempotency | None = None) -> Receipt:
        """See `Ledger.append`."""
        began = trio.current_time()
        try:
            receipt = await self._ledger.append(events, idempotency)
        except Fault as fault:
            metrics.APPENDS_REFUSED.labels(code_of(fault)).inc()
            raise
        if not receipt.replayed:
            metrics.APPENDED.inc(len(events))
            metrics.APPEND_SECONDS.observe(trio.current_time() - began)
        return receipt


class MeasuredBarrier:
    """A barrier whose conclusions are counted and timed."""

    def __init__(self, barrier: Waits) -> None:
        self._barrier = barrier

    async def wait_effective(
        self,
        receipt: Receipt,
        timeout: Seconds,  # noqa: ASYNC109 - the barrier's own
    ) -> Effect:
        """See `Barrier.wait_effective`."""
        began = trio.current_time()
        try:
            effect = await self._barrier.wait_effective(receipt, timeout)
        except Fault as fault:
            metrics.BARRIERS.labels(code_of(fault)).inc()
            raise
        metrics.BARRIERS.labels(RECORDED if effect.how is None else effect.how.value).inc()
        if effect.state is Standing.EFFECTIVE:
            metrics.BARRIER_SECONDS.observe(trio.current_time() - began)
        return effect
