"""Counting what a replica holds."""

import subprocess
import sys
from pathlib import Path

from engine.replica.inventory import take_inventory
from tests.support.replicas import INCARNATION, MAP_SIZE

FILL = """
import sys
from pathlib import Path
from tests.support.replicas import *
known = [participant_entry(1, participant("edp-north", "certificate")), consent_entry(2, 7)]
store = filled(open_store(Path(sys.argv[1])), known)
store.close()
"""


def test_a_replica_is_counted_while_nobody_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FILL, str(tmp_path)], cwd=Path(__file__).parents[3], check=True)
    found = take_inventory(tmp_path, map_size=MAP_SIZE)
    assert found is not None
    assert found.bound is not None
    assert (found.bound.incarnation, found.bound.applied) == (INCARNATION, 2)
    sizes = {one.name: one for one in found.databases}
    assert sizes["participants"].entries == 1
    assert sizes["consents"].entries == 1
    assert found.file_bytes >= sum(one.bytes for one in found.databases)


def test_where_there_is_no_replica_nothing_is_counted(tmp_path: Path) -> None:
    assert take_inventory(tmp_path, map_size=MAP_SIZE) is None
