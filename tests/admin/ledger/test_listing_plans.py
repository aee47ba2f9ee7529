"""How listings and standings are looked through: beside a receiver that hangs they read their own alone."""

import sqlalchemy as sa

from admin.ledger import polling
from admin.ledger.deliveries import PARKED
from admin.ledger.listings import changes_query
from admin.ledger.receiver_standing import left_query
from tests.admin.ledger.test_outbox_plans import house, plan_of
from tests.support.outboxes import House

__all__ = ["house"]


async def test_a_listing_reads_no_more_than_its_own_lines(house: House) -> None:
    def plans(connection: sa.Connection) -> dict[str, str]:
        return {
            "chain": plan_of(connection, changes_query("edp-1", 0, 1_000, 100)),
            "parked": plan_of(connection, left_query("edp-1", PARKED)),
            "open": plan_of(connection, left_query("edp-1", polling.OPEN)),
        }

    for name, plan in (await house.ledger.database.read(plans)).items():
        assert f"ix_deliveries_{name}" in plan, (name, plan)
        assert "SCAN deliveries" not in plan
        assert "Seq Scan" not in plan
