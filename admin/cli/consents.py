"""`ccs consents`: acts on many consents at once, through the running service's API.

They speak as an operator: with the sandbox's operator certificate, or with the one that the options name.
"""

import json as json_text
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter
from cyclopts.validators import Number

from admin.cli.ledger_recovery import DOOR, Door
from admin.cli.progress import bar
from admin.consents.end_all import REST
from admin.consents.forms import RevocationReason

if TYPE_CHECKING:
    from admin.cli.machine_client import OperatorClient

Rest = Annotated[float, Parameter(validator=Number(gte=0, lte=20))]
Json = Annotated[bool, Parameter(name="--json", negative="")]
_KEYS: Final = 2**32  # keys are random: the first eight digits of one say how far it is

app = App(name="consents", help="End all consents of an ATP that was suspended.")


@app.command
def end_all(
    *,
    client: str,
    reason: RevocationReason,
    rest: Rest = REST,
    door: Door = DOOR,
    json: Json = False,
) -> None:
    """End all consents of a suspended ATP, at a pace that lets everybody else's events through.

    Stopped in the middle, what was ended stays ended; run again, it goes on with the rest. It looks through the
    consents until one look from beginning to end finds none that is active.

    Exit code 0: none is left. 2: the options or a certificate cannot be used. 3: the service does not answer, or
    its outbox does not follow. 4: there is no such ATP. 5: it is not suspended.

    Parameters
    ----------
    client
        The ATP's client id.
    reason
        Of the list of reasons for a revocation; kept with each end.
    rest
        How long to rest after each step, in the time that it took: 7 leaves seven eighths of the service to others.
    json
        One JSON object in place of words.
    """
    began, ended = time.monotonic(), 0
    with door.client() as caller, bar(f"ending consents of {client}", 100, hidden=json) as show:
        for part in ending(caller, client, reason, rest):
            ended += part["ended"]
            done = int(part["next"][:8], 16) * 100 // _KEYS if "next" in part else 100
            show(f"{ended:,} consents of {client} ended; looked through, per cent", done, 100)
    seconds = time.monotonic() - began
    if json:
        print(json_text.dumps({"client_id": client, "ended": ended, "seconds": round(seconds, 3)}))
    else:
        print(f"{ended:,} consents of {client} were ended in {seconds:,.1f} s; none is left active")


def ending(caller: "OperatorClient", client: str, reason: str, rest: float) -> Iterator[dict[str, Any]]:
    """The answers, until a look from beginning to end has ended none: one may have been granted behind a look."""
    looked, again = "", 0
    while True:
        body = {"reason": reason, "rest": rest} | ({"after": looked} if looked else {})
        part = caller.call("POST", f"/participants/{client}/end-consents", body)
        yield part
        again += part["ended"]
        looked = part.get("next", "")
        if not looked:
            if not again:
                return
            again = 0
