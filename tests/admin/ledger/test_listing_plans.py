"""How listings and standings are looked through: beside a receiver that hangs they read their own alone."""

import re

import sqlalchemy as sa

from admin.ledger import polling
from admin.ledger.deliveries import PARKED
from admin.ledger.listings import changes_query
from tests.admin.ledger.test_outbox_plans import first_of_receiver, house, plan_of
from tests.support.outboxes import House

__all__ = ["house"]


async def test_a_listing_reads_no_more_than_its_own_lines(house: House) -> None:
    def plans(connection: sa.Connection) -> dict[str, str]:
        return {
            "chain": plan_of(connection, changes_query("edp-1", 0, 1_000, 100)),
            "parked": plan_of(connection, first_of_receiver(PARKED)),
            "open": plan_of(connection, first_of_receiver(polling.OPEN)),
        }

    for name, plan in (await house.ledger.database.read(plans)).items():
        assert f"ix_deliveries_{name}" in plan, (name, plan)
        assert "SCAN deliveries" not in plan
        assert "Seq Scan" not in plan


async def test_a_listing_begins_at_its_position_and_not_at_the_receivers_first(house: House) -> None:
    """Whoever lists the last of a million events does not go through all those before."""

    def plan(connection: sa.Connection) -> str:
        return plan_of(connection, changes_query("edp-4", 99_000, 100_000, 100))

    def read(connection: sa.Connection) -> str:
        """PostgreSQL's own count of the pages that it looked at, those of planning last; SQLite has none."""
        query = changes_query("edp-4", 99_000, 100_000, 100).compile(connection, compile_kwargs={"literal_binds": True})
        return "\n".join(connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {query}").scalars())

    if house.ledger.database.is_sqlite:
        found = await house.ledger.database.read(plan)
        assert "ix_deliveries_chain (client_id=? AND seq>? AND seq<?)" in found
    else:
        pages = [
            int(count)
            for count in re.findall(
                r"shared (?:hit=|read=)(\d+)", (await house.ledger.database.read(read)).partition("Planning")[0]
            )
        ]
        assert max(pages) < 50
