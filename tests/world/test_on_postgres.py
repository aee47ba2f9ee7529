"""The same whole way with the ledger in a real PostgreSQL: granted, answered, revoked, and its database killed."""

import json
from pathlib import Path

from tests.support.postgres import PostgresServer
from tests.support.sandbox import Running, eventually


def test_the_whole_way_on_postgresql_survives_the_loss_of_its_database(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.new_database()
    sandbox = Running(tmp_path / "var", f'ledger-url = "{url}"\n', consents=20, workers=1).start()
    try:
        kept, ended, late = sandbox.tokens(3)
        caller = sandbox.caller("edp-1")
        assert caller.introspect(kept["token"])[1]["active"] is True
        done = sandbox.ccs("sandbox", "revoke", ended["consent_id"], "--wait-effective")
        assert json.loads(done.stdout)["state"] == "effective"
        assert caller.introspect(ended["token"]) == (200, {"active": False})

        postgres_server.crash()
        refused = sandbox.ccs("sandbox", "revoke", late["consent_id"])
        assert refused.returncode == 3, refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        assert caller.introspect(kept["token"])[1]["active"] is True

        postgres_server.start()
        eventually(lambda: sandbox.ccs("sandbox", "revoke", late["consent_id"]).returncode in (0, 5))
        eventually(lambda: caller.introspect(late["token"]) == (200, {"active": False}))
        eventually(lambda: caller.introspect(kept["token"])[1].get("ccs_freshness") == "current")
        verified = sandbox.ccs("ledger", "verify", "--json")
        assert verified.returncode == 0, verified.stderr
    finally:
        assert sandbox.stop() == 0
