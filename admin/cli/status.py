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

from admin.cli.machine_client import MachineClient
from admin.cli.pushing import pushing_table, unknown_pushing_table
from admin.cli.running import NotRunning, Sandbox, load_sandbox
from engine.errors import Fault

ASK_WITHIN: Final = 5.0  # seconds; the status listener is on loopback
_COLOURS: Final = {"current": "green", "last_known": "yellow", "blind": "red"}
_MEGABYTE: Final = 1 << 20


def status(
    *, state: Path = Path("var"), json_output: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """Show processes, freshness and positions of the running sandbox, and what waits to be pushed.

    Exit code 0: everything runs and the node is current. 3: nothing runs there, or not all of it. 2, 6: the service
    runs and does not tell the sandbox's operator about its pushes; the rest is shown.

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
    pushing = ask_pushing(sandbox)
    if json_output:
        told = {"pushing": None, "pushing_fault": pushing.text} if isinstance(pushing, Fault) else {"pushing": pushing}
        print(json.dumps({"processes": processes, "node": node, **told}))
    else:
        show(processes, node, pushing, Console())
    if not all(processes.values()):
        raise NotRunning(f"not everything runs: {', '.join(name for name, up in processes.items() if not up)}")
    if isinstance(pushing, Fault):
        raise pushing
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


def ask_pushing(sandbox: Sandbox) -> dict[str, Any] | Fault:
    """What the admin application says of its pushes, or why it says nothing: the rest is worth showing all the same."""
    try:
        with MachineClient(sandbox, patience=ASK_WITHIN) as client:
            return client.call("GET", "/pushing")
    except Fault as fault:
        return fault


def alive(pids: int | list[int]) -> bool:
    """Whether every one of the processes exists."""
    return all(Path(f"/proc/{pid}").exists() for pid in ([pids] if isinstance(pids, int) else pids))


def show(processes: dict[str, bool], node: dict[str, Any], pushing: dict[str, Any] | Fault, console: Console) -> None:
    """Four tables: the sandbox's processes, what the node says of itself, the node's children, the pushes."""
    table = Table("process", "runs")
    for name, up in processes.items():
        table.add_row(name, "[green]yes[/]" if up else "[red]no[/]")
    pushes = unknown_pushing_table(pushing.text) if isinstance(pushing, Fault) else pushing_table(pushing)
    console.print(table, _node_table(node), _children_table(node["children"]), pushes)


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
