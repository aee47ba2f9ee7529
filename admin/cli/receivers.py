"""`ccs receivers`: who is told of revocations, who is behind, and pausing or enabling a stream.

They speak as an operator: with the sandbox's operator certificate, or with the one that the options name.
"""

import json as json_text
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from admin.cli.ledger_recovery import DOOR, Door
from admin.cli.pushing import pushing_table

Json = Annotated[bool, Parameter(name="--json", negative="")]

app = App(name="receivers", help="Show who is told of revocations, and pause or enable their streams.")


@app.default
def receivers(
    *,
    door: Door = DOOR,
    json: Json = False,
) -> None:
    """Show all receivers with their streams, and what they are owed.

    Exit code 0: they are shown. 2: the options or a certificate cannot be used. 3: the service does not answer.

    Parameters
    ----------
    json
        One JSON object in place of tables.
    """
    with door.client() as client:
        found = client.call("GET", "/receivers")
    if json:
        print(json_text.dumps(found))
    else:
        show(found, Console())


@app.command
def pusher(
    *,
    door: Door = DOOR,
    json: Json = False,
) -> None:
    """Show who pushes, what waits in each lane, and how many receivers are in which state.

    Exit code 0: it is shown. 2: the options or a certificate cannot be used. 3: the service does not answer.

    Parameters
    ----------
    json
        One JSON object in place of a table.
    """
    with door.client() as client:
        found = client.call("GET", "/pushing")
    if json:
        print(json_text.dumps(found))
    else:
        Console().print(pushing_table(found))


@app.command
def pause(
    stream_id: str,
    *,
    reason: str,
    door: Door = DOOR,
) -> None:
    """Pause a stream until an operator enables it; its events are held, and its receiver is told.

    Exit code 0: it is paused. 3: the service does not answer. 4: there is no such stream. 5: it was paused so already.

    Parameters
    ----------
    stream_id
        The stream, as `ccs receivers` shows it.
    reason
        A code that says why, kept in the ledger and told to the receiver.
    """
    with door.client() as client:
        done = client.call("POST", f"/receivers/streams/{stream_id}/pause", {"reason": reason})
    print(_sentence(done))


@app.command
def enable(
    stream_id: str,
    *,
    door: Door = DOOR,
) -> None:
    """Enable a stream, whoever paused or disabled it; its receiver is told.

    Exit code 0: it is enabled, or waits for its address to be confirmed. 3: the service does not answer. 4: there is
    no such stream. 5: it was enabled already.

    Parameters
    ----------
    stream_id
        The stream, as `ccs receivers` shows it.
    """
    with door.client() as client:
        done = client.call("POST", f"/receivers/streams/{stream_id}/enable")
    print(_sentence(done))


def show(found: dict[str, Any], console: Console) -> None:
    """A table of the receivers, one of their streams."""
    if not found["receivers"]:
        console.print("No receiver has a stream.")
        return
    owed = Table("receiver", "role", "last event", "not pushed", "oldest", "parked", "not polled", "error")
    ways = Table("receiver")
    ways.add_column("stream", no_wrap=True, min_width=36)  # to be copied, whatever the terminal's width
    for name in ("way", "status", "reason", "address"):
        ways.add_column(name)
    for one in found["receivers"]:
        name = f"{one['client_id']}{' (suspended)' if one['suspended'] else ''}"
        if since := one.get("fallback_suspended_at"):
            name += f" [red]no fallback since {since}[/]"
        parked = f"[red]{one['parked']}[/]" if one["parked"] else "0"
        numbers = (str(one["unsent"]), one.get("oldest_unsent", ""), parked, str(one["unacknowledged"]))
        owed.add_row(name, one["role"], str(one["last_seq"]), *numbers, escape(one.get("error", "")))
        for stream in one["streams"]:
            status = stream["status"] if stream["confirmed"] else "not confirmed"
            colour = "green" if status == "enabled" else "yellow"
            held = " (operator)" if stream["held"] else ""
            ways.add_row(
                one["client_id"], stream["stream_id"], stream["method"], f"[{colour}]{status}[/]{held}",
                escape(stream.get("reason", "")), escape(stream.get("endpoint_url", "")),
            )  # fmt: skip
    console.print(owed, ways)


def _sentence(done: dict[str, Any]) -> str:
    stream = done["stream"]
    return f"{stream['stream_id']} of {done['client_id']} is {stream['status']}, at position {done['position']['seq']}"
