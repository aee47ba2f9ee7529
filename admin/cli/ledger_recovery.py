"""`ccs ledger recovering` and `ccs ledger go-live`: the end of a restore, through the running service's API.

They speak as an operator: with the sandbox's operator certificate, or with the one that the options name.
"""

import json as json_text
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from engine.errors import Fault, Kind

if TYPE_CHECKING:
    from admin.cli.machine_client import OperatorClient

Flag = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="")]
Names = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)]


class NotYet(Fault):
    """Something still speaks against going live."""

    kind = Kind.CONFLICT


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Door:
    """Where the service is reached, and as whom.

    Attributes
    ----------
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
    """

    state: Path = Path("var")
    url: str = ""
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def client(self) -> "OperatorClient":
        """An operator's client. Raises BadConfig, NotRunning."""
        from admin.cli.machine_client import operator_client

        return operator_client(self.state, self.url, self.ca_file, self.certificate, self.key)


DOOR = Door()


def recovering(*, door: Door = DOOR, json: Json = False) -> None:
    """Show whether the ledger is recovering from a restore: who has reported, who has not, and what is in doubt.

    Exit code 0: it is shown. 2: the options or a certificate cannot be used. 3: the service does not answer.

    Parameters
    ----------
    json
        One JSON object in place of tables.
    """
    with door.client() as client:
        found = client.call("GET", "/recovery")
    if json:
        print(json_text.dumps(found))
    else:
        show(found, Console())


def go_live(
    *,
    apply: Flag = False,
    without: Names = (),
    reason: str = "",
    door: Door = DOOR,
    json: Json = False,
) -> None:
    """End the recovery: nodes become current again. Without --apply only what would happen is shown.

    Exit code 0: the ledger is live, or would be. 2: the options or a certificate cannot be used. 3: the service does
    not answer. 5: the ledger is live already, or somebody has not reported and is not named by --without.

    Parameters
    ----------
    apply
        Do it.
    without
        Go live in spite of a party that has not reported, by its client id, or of `untold-events`; repeatable.
    reason
        A code that says why, kept in the ledger; needed with --without.
    json
        One JSON object in place of words.
    """
    with door.client() as client:
        if not apply:
            rehearse(client.call("GET", "/recovery"), without, json=json)
            return
        form = {"without": list(without)} | ({"reason": reason} if reason else {})
        done = client.call("POST", "/recovery/go-live", form)
    if json:
        print(json_text.dumps(done))
        return
    print(
        f"live at position {done['position']['seq']}: {done['ended']} consents ended, {done['in_doubt']} to be repeated"
    )
    if done["without"]:
        print(f"without: {', '.join(done['without'])}")


def show(found: dict[str, Any], console: Console) -> None:
    """What an operator needs to see, in the order in which it is worked through."""
    console.print(f"The ledger is [{'yellow' if found['state'] == 'recovering' else 'green'}]{found['state']}[/].")
    if not found["restored"]:
        console.print("It was never restored.")
        return
    console.print(f"What was recorded from {found['gap_from']} to {found['gap_to']} may be lost.")
    console.print(
        f"Kept up to position {found.get('restored_seq', 0):,}; reported once up to {found.get('reported_seq', 0):,}; "
        f"told again up to {found.get('told_to', 0):,}."
    )
    console.print(f"{found.get('ended', 0)} consents ended by what was told, {found.get('doubts', 0)} in doubt.")
    console.print(_parties(found.get("parties", ())))
    if found.get("in_doubt"):
        console.print(_doubts(found["in_doubt"]))
    if found.get("to_look_at"):
        console.print(f"Written in the gap, to be looked at: {', '.join(found['to_look_at'])}")
    if found["state"] == "recovering":
        console.print(f"Against going live: {', '.join(found.get('obstacles', ())) or 'nothing'}")


def _parties(parties: list[dict[str, Any]]) -> Table:
    table = Table("party", "role", "reported", "told", "known to")
    for party in parties:
        reported = f"[green]{party['told_at']}[/]" if party["reported"] else "[red]no[/]"
        known_to = f"{party['known_to']:,}" if "known_to" in party else ""
        table.add_row(party["client_id"], party["role"], reported, str(party.get("told", "")), known_to)
    return table


def _doubts(doubts: list[dict[str, Any]]) -> Table:
    table = Table("consent in doubt", "what was lost", "told by", "parties")
    for doubt in doubts:
        what = doubt["change"] if doubt["known"] else f"{doubt['change']}: unknown to the ledger"
        table.add_row(doubt["consent_id"], what, doubt["told_by"], ", ".join(doubt.get("parties", ())))
    return table


def rehearse(found: dict[str, Any], without: tuple[str, ...], *, json: bool) -> None:
    """Say what `--apply` would meet. Raises NotYet."""
    left = sorted(set(found.get("obstacles", ())) - set(without))
    if json:
        print(json_text.dumps({"state": found["state"], "obstacles": left}))
    if found["state"] == "live":
        raise NotYet("the ledger is live")
    if left:
        raise NotYet(
            f"not reported: {', '.join(left)}; name them with --without and give a --reason to go live all the same"
        )
    if not json:
        print("nothing speaks against it; add --apply")
