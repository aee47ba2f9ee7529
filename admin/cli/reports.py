"""`ccs reports fallback`: what EDPs shared while they could ask nobody, through the running service's API.

It speaks as an operator: with the sandbox's operator certificate, or with the one that the options name.
"""

import json as json_text
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, Parameter(name="--json", negative="")]
Limit = Annotated[int, Parameter(validator=Number(gte=1, lte=1_000))]

app = App(name="reports", help="Show what participants have reported.")


@app.command
def fallback(
    *,
    edp: str = "",
    limit: Limit = 100,
    state: Path = Path("var"),
    url: str = "",
    ca_file: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    json: Json = False,
) -> None:
    """Show the shares of outages that were reported last, and what about them should not be.

    Exit code 0: they are shown. 2: the options or a certificate cannot be used. 3: the service does not answer.

    Parameters
    ----------
    edp
        Of one EDP only, by its client id.
    limit
        How many at most.
    state
        Folder of `ccs up`, where no --url is given.
    url
        The machine listener of a real installation, https://host:port; with it the next three.
    ca_file
        Certificates of the authority that its certificate is from.
    certificate
        An operator's certificate.
    key
        Its private key.
    json
        One JSON object in place of a table.
    """
    from admin.cli.machine_client import operator_client

    with operator_client(state, url, ca_file, certificate, key) as client:
        query = {"limit": str(limit)} | ({"edp": edp} if edp else {})
        found = client.call("GET", "/shares/fallback", **query)
    if json:
        print(json_text.dumps(found))
    else:
        show(found["shares"], Console())


def show(shares: Sequence[dict[str, Any]], console: Console) -> None:
    """A line for each share, and how many should not have been made."""
    if not shares:
        console.print("No fallback share was reported.")
        return
    table = Table("shared at", "edp", "consent", "version", "outage since", "result", "to look at")
    for share in shares:
        odd = [*share["flags"], *([] if share["outage_shown"] else ["outage not shown"])]
        look = f"[red]{', '.join(odd)}[/]" if odd else ""
        table.add_row(
            share["at"],
            share["edp"],
            share["consent_id"],
            str(share["consent_version"]),
            share["outage_since"],
            share["result"],
            look,
        )
    console.print(table)
    flagged = sum(bool(share["flags"]) or not share["outage_shown"] for share in shares)
    console.print(f"{len(shares)} shares, {flagged} to look at.")
