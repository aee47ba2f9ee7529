"""The right to push, as far as the local clock knows: counted from when it was asked for, never from the answer.

The ledger's side counts from its own receipt, which is later; so it gives the lease to nobody else before we think that
it has ended. Boot time, because a machine that slept must wake up without it.
"""

from collections.abc import Callable
from typing import Final

import trio

from engine.clock import Seconds
from engine.errors import Fault
from engine.pusher.service import Lease, LeaseHeld, LeaseLost, PushService
from engine.telemetry import logs

RENEWALS: Final = 3  # in the time of a lease: two may fail
ASK_EVERY: Final = Seconds(0.5)  # while another has it
AGAIN_AFTER: Final = Seconds(0.2)  # a renewal that failed
RATE: Final = 0.99  # clocks run apart by a hundredth at most

_log = logs.logger("pusher")


class Tenure:
    """One lease, from when it was taken to its end. boot: seconds since this boot, sleep included."""

    def __init__(self, lease: Lease, asked_at: float, boot: Callable[[], float]) -> None:
        self.epoch = lease.epoch
        self.renew_every = Seconds(lease.seconds / RENEWALS)
        self._boot = boot
        self._ends_at = asked_at + lease.seconds * RATE

    def extend(self, lease: Lease, asked_at: float) -> None:
        """It was renewed by a call that was sent at that time."""
        self._ends_at = asked_at + lease.seconds * RATE

    @property
    def left(self) -> float:
        """Seconds; not above zero when it may have ended."""
        return self._ends_at - self._boot()

    def holds(self) -> bool:
        """Whether it certainly has not ended."""
        return self.left > 0

    def end(self) -> None:
        """It has passed on."""
        self._ends_at = float("-inf")


async def take(service: PushService, holder: str, boot: Callable[[], float]) -> Tenure | None:
    """Ask once; None: another has it. Raises what the service does."""
    asked_at = boot()
    try:
        lease = await service.lease(holder, None)
    except LeaseHeld:
        return None
    tenure = Tenure(lease, asked_at, boot)
    return tenure if tenure.holds() else None


async def keep(
    service: PushService, holder: str, tenure: Tenure, boot: Callable[[], float], work: trio.CancelScope
) -> None:
    """Renew for ever; end the work when the lease may have ended, whatever a renewal under way will bring."""
    while True:
        work.deadline = trio.current_time() + tenure.left
        await trio.sleep(tenure.renew_every)
        while not await _renew(service, holder, tenure, boot):
            if not tenure.holds():
                work.cancel()
            await trio.sleep(AGAIN_AFTER)


async def _renew(service: PushService, holder: str, tenure: Tenure, boot: Callable[[], float]) -> bool:
    asked_at = boot()
    try:
        tenure.extend(await service.lease(holder, tenure.epoch), asked_at)
    except (LeaseLost, LeaseHeld) as fault:
        _log.warning("lease_lost", text=fault.text, epoch=tenure.epoch)
        tenure.end()
        return False
    except Fault as fault:
        _log.warning("lease_not_renewed", text=fault.text, detail=fault.detail, left=round(tenure.left, 3))
        return False
    return True
