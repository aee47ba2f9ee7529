"""`ccs replica stat`: what a node's replica holds and how fresh it claims to be."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from admin.cli.running import settings_file
from engine.config import load_node_config
from engine.errors import Fault, Kind

app = App(name="replica", help="Look into a node's replica.")


class NoReplica(Fault):
    """There is nothing to look into."""

    kind = Kind.NOT_FOUND


@app.command
def stat(
    *,
    state: Path = Path("var"),
    config: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Count entries and bytes of a replica; works while its node runs, and without it.

    Exit code 0: it was read. 2: the settings cannot be used. 4: there is no replica, or no sandbox. 7: it cannot be
    read.

    Parameters
    ----------
    state
        Folder of `ccs up`; its node's settings are taken.
    config
        Settings of the node, in place of a sandbox's.
    json_output
        One JSON object in place of a table.
    """
    from engine.replica.inventory import take_inventory

    settings = load_node_config(config or settings_file(state, "node.toml")).replica
    found = take_inventory(settings.directory, map_size=settings.map_size)
    if found is None:
        raise NoReplica(f"no replica in {settings.directory}")
    if json_output:
        print(msgspec.json.encode(found).decode())
        return
    table = Table("records", "entries", "bytes", "bytes each")
    for one in found.databases:
        table.add_row(one.name, f"{one.entries:,}", f"{one.bytes:,}", f"{one.bytes / max(1, one.entries):,.0f}")
    console = Console()
    console.print(table)
    console.print(f"{found.generation}: {found.file_bytes:,} bytes on disk")
    if found.bound:
        console.print(f"position {found.bound.applied:,} of incarnation {found.bound.incarnation}")
