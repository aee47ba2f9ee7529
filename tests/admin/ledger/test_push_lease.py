"""What a database's clock may do to the lease; the rest of what holds of it is in `tests/contracts/push_service.py`."""

from pathlib import Path

import pytest

from engine.pusher.service import LeaseHeld, LeaseLost, Signed
from tests.support.outboxes import house_in


async def test_a_clock_that_was_set_back_an_hour_keeps_nobody_from_pushing(tmp_path: Path) -> None:
    """The lease of a pusher that has died ends, by the clock of now, in an hour: nobody may have to wait for that."""
    async with house_in(tmp_path) as house:
        dead = await house.outbox.lease("one", None)
        house.lease_offset -= 3_600
        taken = await house.outbox.lease("two", None)
        assert taken.epoch > dead.epoch
        with pytest.raises(LeaseLost):
            await house.outbox.lease("one", dead.epoch)
        with pytest.raises(LeaseHeld):
            await house.outbox.lease("three", None)


async def test_a_restored_ledger_takes_nothing_under_a_lease_of_the_one_that_was_lost(tmp_path: Path) -> None:
    """Leases are in no backup: numbers of deliveries that a pusher still holds name others in the restored one."""
    for name in ("lost", "restored"):
        (tmp_path / name).mkdir()
    async with house_in(tmp_path / "lost") as house:
        lost = await house.outbox.lease("one", None)
    async with house_in(tmp_path / "restored") as house:
        with pytest.raises(LeaseLost):
            await house.outbox.lease("one", lost.epoch)
        for call in (house.outbox.keep(lost.epoch, [Signed(1, b"of the lost one")]), house.outbox.tell(lost.epoch, [])):
            with pytest.raises(LeaseLost):
                await call
        house.lease_offset += 1
        assert (await house.outbox.lease("one", None)).epoch > lost.epoch


async def test_a_clock_that_was_set_back_a_little_takes_no_lease_away(tmp_path: Path) -> None:
    async with house_in(tmp_path) as house:
        await house.outbox.lease("one", None)
        house.lease_offset -= 2
        with pytest.raises(LeaseHeld):
            await house.outbox.lease("two", None)
