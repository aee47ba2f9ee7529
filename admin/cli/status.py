"""`ccs status`: what runs in a sandbox and how fresh it is."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.cli.running import NotRunning, Sandbox, load_sandbox

ASK_WITHIN: Final = 5.0  # seconds; the status listener is on loopback
_COLOURS: Final = {"current": "green", "last_known": "yellow", "blind": "red"}
_MEGABYTE: Final = 1 << 20


def status(
    *, state: Path = Path("var"), json_output: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
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
    if node["state"] != "current":
        raise NotRunning(f"the node is not current: {node['state']}")


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
    """Three tables: the sandbox's processes, what the node says of itself, the node's children."""
    table = Table("process", "runs")
    for name, up in processes.items():
        table.add_row(name, "[green]yes[/]" if up else "[red]no[/]")
    console.print(table, _node_table(node), _children_table(node["children"]))


def _node_table(node: dict[str, Any]) -> Table:
    state = node["state"]
    behind = node["head"] - node["applied"]
    table = Table("node", node["node_id"])
    table.add_row("freshness", f"[{_COLOURS.get(state, 'red')}]{state}[/]{' · draining' if node['draining'] else ''}")
    if node.get("recovering_since"):
        table.add_row("ledger", f"[yellow]recovering[/] what was lost after {node['recovering_since']}")
    table.add_row("applied", f"{node['applied']:,}" if node["applied"] >= 0 else "nothing")
    table.add_row("behind", f"[yellow]{behind:,}[/]" if behind else "0")
    table.add_row("as of", node["as_of"] or "never")
    table.add_row("last known until", node["last_known_until"] or "never")
    table.add_row("incarnation", node["incarnation"] or "none")
    for name, port in node["ports"].items():
        table.add_row(f"{name} port", str(port))
    if node["replica_fault"]:
        table.add_row("replica", f"[red]{escape(node['replica_fault'])}[/]")
    return table


def _children_table(children: list[dict[str, Any]]) -> Table:
    table = Table("child", "life", "pid", "restarts", "memory", "CPU", "last fault")
    for child in children:
        life = child["life"]
        table.add_row(
            child["name"],
            f"[{'green' if life == 'running' else 'red'}]{life}[/]",
            str(child["pid"] or ""),
            str(child["restarts"]),
            f"{child['resident'] / _MEGABYTE:,.0f} MB",
            f"{child['cpu_seconds']:,.1f} s",
            escape(child["last_fault"]),
        )
    return table
