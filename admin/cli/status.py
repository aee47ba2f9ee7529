"""`ccs status`: what runs in a sandbox and how fresh it is."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from admin.cli.running import NotRunning, Sandbox, load_sandbox

ASK_WITHIN = 5.0  # seconds; the status listener is on loopback


def status(*, state: Path = Path("var"), json_output: bool = False) -> None:
    """Show processes, freshness and positions of the running sandbox.

    Exit code 0: everything runs and the node is current. 3: nothing runs there, or not all of it.

    Parameters
    ----------
    state
        The folder that `ccs up` was started on.
    json_output
        One JSON object in place of tables.
    """
    sandbox = load_sandbox(state)
    node = node_status(sandbox)
    processes = {name: alive(pids) for name, pids in sandbox.pids.items()}
    if json_output:
        print(json.dumps({"processes": processes, "node": node}))
    else:
        show(processes, node, Console())
    if not all(processes.values()):
        raise NotRunning(f"not everything runs: {', '.join(name for name, up in processes.items() if not up)}")


def node_status(sandbox: Sandbox) -> dict[str, Any]:
    """The node's own /statusz. Raises NotRunning."""
    url = f"{sandbox.node_status_url}/statusz"
    if not url.startswith("http://"):
        raise NotRunning(f"{url} is not a status address")
    try:
        with urllib.request.urlopen(url, timeout=ASK_WITHIN) as answer:  # noqa: S310 - scheme checked above
            found: dict[str, Any] = json.load(answer)
            return found
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise NotRunning(f"the node does not answer on {sandbox.node_status_url}") from error


def alive(pids: int | list[int]) -> bool:
    """Whether every one of the processes exists."""
    return all(Path(f"/proc/{pid}").exists() for pid in ([pids] if isinstance(pids, int) else pids))


def show(processes: dict[str, bool], node: dict[str, Any], console: Console) -> None:
    """Two tables: processes, and what the node says of itself."""
    table = Table("process", "runs")
    for name, up in processes.items():
        table.add_row(name, "[green]yes[/]" if up else "[red]no[/]")
    console.print(table)
    table = Table("node", "")
    for name, value in node.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    console.print(table)
