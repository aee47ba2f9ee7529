"""`ccs guard`: an EDP's guard as a program, and a look at one that runs. Needs the guard extra alone."""

import http.client
import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.errors import Fault, Kind

if TYPE_CHECKING:
    from engine.guard.config import GuardConfig

ASK_WITHIN: Final = 5.0  # seconds; it is on this machine

app = App(name="guard", help="Run an EDP's guard, or look at one that runs.")

_COLOURS: Final = {"closed": "green", "ramping": "yellow", "buffering": "yellow", "probing": "yellow"}
_MEGABYTE: Final = 1 << 20


class NoGuard(Fault):
    """No guard answers there."""

    kind = Kind.UNAVAILABLE


class WhichGuard(Fault):
    """The command line does not say which guard is meant."""

    kind = Kind.INVALID


class NotWell(Fault):
    """The guard runs, but would not serve as it should."""

    kind = Kind.UNAVAILABLE


@app.default
def guard(*, config: Path) -> None:
    """Run a guard until SIGTERM or Ctrl-C; SIGTERM drains: questions in flight are answered first.

    It answers your programs on a unix socket or on loopback, takes pushed events, polls, and reports after an outage.
    SIGHUP reads certificates, keys and the secret again.

    Exit code 0 after a stop, 2 when the settings, a key, a certificate or a port cannot be used.

    Parameters
    ----------
    config
        The guard's settings; `ccs check-config FILE` says whether they would be taken.
    """
    from engine.guard.config import load_guard_config
    from engine.guard.process import run_guard

    run_guard(load_guard_config(config))


@app.command
def status(
    *,
    config: Path | None = None,
    socket: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Show a running guard: its circuit, the nodes it asks, what it knows, what it was told, what it did in outages.

    Exit code 0: it answers and would share in an outage too. 2: neither --config nor --socket, or a file that cannot be
    used. 3: nobody answers, or something keeps it from serving as it should; one sentence says what.

    Parameters
    ----------
    config
        The guard's settings, which say where it listens.
    socket
        Its unix socket, in place of the settings.
    json_output
        One JSON object in place of tables.
    """
    told = _ask(config, socket)
    if json_output:
        print(json.dumps(told))
    else:
        show(told, Console())
    if wrong := problem(told):
        raise NotWell(wrong)


def problem(told: dict[str, Any]) -> str:
    """Why the guard does not serve as it should, in one sentence; "" = it does."""
    if full := _full(told):
        return full
    if told["draining"]:
        return "the guard is stopping"
    waiting = [part["name"] for part in told["parts"] if part["life"] != "running"]
    if waiting:
        return f"not everything runs: {', '.join(waiting)}"
    if told["events"]["missing_since"]:
        return f"events are missing since {told['events']['missing_since']}: nothing would be shared in an outage"
    if told["outage_since"]:
        return f"nobody can be asked since {told['outage_since']}"
    return ""


def _full(told: dict[str, Any]) -> str:
    if told["memory"]["full"]:
        return "the disk takes no more: pushed ends cannot be kept, and nothing is shared in an outage"
    if told["evidence"].get("full"):  # a guard of before the update does not say
        return "the evidence takes no more: nothing is shared in an outage until what was shared is reported"
    return ""


def _ask(config: Path | None, path: Path | None) -> dict[str, Any]:
    if path is not None:
        return _told(_UnixConnection(path), str(path), {})
    if config is None:
        raise WhichGuard("say which guard: --config FILE, or --socket PATH")
    from engine.guard.config import load_guard_config

    return _ask_as_configured(load_guard_config(config), config)


def _ask_as_configured(settings: "GuardConfig", file: Path) -> dict[str, Any]:
    sidecar = settings.sidecar
    if sidecar is None:
        raise WhichGuard(f"{file} has no `sidecar` table: the guard is a library there, inside your program")
    if sidecar.socket is not None:
        return _told(_UnixConnection(sidecar.socket), str(sidecar.socket), {})
    if not sidecar.port or sidecar.secret_file is None:
        raise WhichGuard(f"{file}: its port is drawn at each start; give the guard a `sidecar.socket` to look at it")
    from engine.guard.doors import read_secret

    secret = read_secret(sidecar.secret_file).decode()
    connection = http.client.HTTPConnection(sidecar.host, sidecar.port, timeout=ASK_WITHIN)
    return _told(connection, f"{sidecar.host}:{sidecar.port}", {"Authorization": f"Bearer {secret}"})


def _told(connection: http.client.HTTPConnection, where: str, fields: dict[str, str]) -> dict[str, Any]:
    try:
        connection.request("GET", "/v1/status", headers=fields)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != http.client.OK:
            raise NoGuard(f"{where} answers {answer.status}: not a guard that takes this question")
        told: dict[str, Any] = json.loads(content)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoGuard(f"no guard answers on {where}", detail=repr(error)) from error
    finally:
        connection.close()
    return told


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ASK_WITHIN)
        self._path = path

    def connect(self) -> None:
        """Open the socket in place of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def show(told: dict[str, Any], console: Console) -> None:
    """Three tables: the guard and what it knows, the nodes it asks, the parts of its process."""
    console.print(_guard_table(told), _address_table(told["addresses"]), _part_table(told["parts"]))


def _guard_table(told: dict[str, Any]) -> Table:
    memory, events, evidence = told["memory"], told["events"], told["evidence"]
    circuit = told["circuit"]
    table = Table("guard", escape(told["client_id"]))
    table.add_row("circuit", f"[{_COLOURS.get(circuit, 'red')}]{circuit}[/]{' · draining' if told['draining'] else ''}")
    if told["outage_since"]:
        table.add_row("outage since", f"[red]{told['outage_since']}[/]")
        table.add_row("shares end at", told["outage_ends_at"] or "policy: at once")
        table.add_row("next probe", told["next_probe_at"] or "none")
    table.add_row("would share in an outage", "[green]yes[/]" if told["falls_back"] else "[red]no[/]")
    table.add_row("known", f"{memory['tokens']:,} tokens, {memory['ends']:,} ends")
    table.add_row("store", _size(memory))
    table.add_row("events", f"up to {events['last_seq']:,}{_anew(events)}")
    missing = (
        f"[red]since {events['missing_since']}, {events['ahead']:,} wait[/]" if events["missing_since"] else "none"
    )
    table.add_row("missing events", missing)
    table.add_row("push", events["push_status"] or "none, by poll alone")
    for name, member in (("last push", "last_push_at"), ("heartbeat", "last_heartbeat_at"), ("poll", "last_poll_at")):
        table.add_row(name, _ago(events[member]))
    table.add_row("shares in outages", f"{evidence['allowed']:,} made, {evidence['refused']:,} refused")
    table.add_row("not reported yet", f"{evidence['unreported']:,}")
    table.add_row("last report", _ago(evidence["last_report_at"]))
    return table


def _anew(events: dict[str, Any]) -> str:
    """An older guard's page does not say it."""
    return f", [red]its file began anew {events['anew']} times[/]" if events.get("anew") else ""


def _size(memory: dict[str, Any]) -> str:
    used = f"{memory['bytes_used'] / _MEGABYTE:,.1f}"
    full = " [red]full[/]" if memory["full"] else ""
    return f"{used} of {memory['bytes_allowed'] / _MEGABYTE:,.0f} MB{full}"


def _address_table(addresses: list[dict[str, Any]]) -> Table:
    table = Table("node", "newest contact", "freshness", "as of", "last answer", "last failure")
    for node in addresses:
        failed = f"{escape(node['failure'])}, {_ago(node['failed_at'])}" if node["failed_at"] else "none"
        told = (node["freshness"] or "not said", node["as_of"] or "", _ago(node["answered_at"]), failed)
        table.add_row(escape(node["address"]), _contact(node), *told)
    return table


def _contact(node: dict[str, Any]) -> str:
    how = node["contact"]
    if not how:
        return "not asked yet"
    colour = {"current": "green", "answered": "green", "last_known": "yellow"}.get(how, "red")
    return f"[{colour}]{escape(how)}[/], {_ago(node['contact_at'])}"


def _part_table(parts: list[dict[str, Any]]) -> Table:
    table = Table("part", "life", "restarts", "last fault")
    for part in parts:
        life = f"[{'green' if part['life'] == 'running' else 'red'}]{part['life']}[/]"
        table.add_row(part["name"], life, str(part["restarts"]), escape(part["last_fault"]))
    return table


def _ago(at: str | None) -> str:
    """An instant as people read it: how long ago."""
    if at is None:
        return "never"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    if seconds < 120:
        return f"{max(0, seconds):.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"
