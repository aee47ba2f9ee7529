"""`ccs sandbox …`: tokens to try things with, and revocations to see them bite. All through the running service."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO
from urllib.parse import quote

from cyclopts import App, Parameter
from cyclopts.validators import Number

from admin.cli.machine_client import MachineClient
from admin.cli.progress import bar
from admin.cli.running import NotRunning, load_sandbox
from engine.errors import Fault, Kind

STATE = Path("var")
WAIT = "30"  # seconds; a revocation is effective within about two, or something is very wrong

Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65535))]

app = App(
    name="sandbox",
    help="Mint tokens, revoke consents and set up guards in a sandbox that runs (`ccs up`).",
)


class WrongChoice(Fault):
    """Options that exclude each other."""

    kind = Kind.INVALID


class BadOutput(Fault):
    """The file cannot be written."""

    kind = Kind.INVALID


class NotEffective(Fault):
    """Recorded, but some engine node may still answer the consent active."""

    kind = Kind.UNAVAILABLE


@app.command
def tokens(
    *,
    count: int = 1,
    consents: int | None = None,
    consent: str | None = None,
    edp: str | None = None,
    atp: str | None = None,
    out: Annotated[str, Parameter(allow_leading_hyphen=True)] = "-",
    state: Path = STATE,
) -> None:
    """Mint tokens through the real issuing code: one JSON line each, over consents that are granted for them.

    With --consent they are of that consent, which must stand; then --consents and --atp are not taken.

    A line is {"token", "consent_id", "edp", "atp", "expires_at"}. A file is written whole or not at all.

    Exit codes: 0 all are minted · 2 wrong input, nobody of that name, or the file cannot be written · 3 no sandbox
    runs there · 4 no such consent · 5 the consent has ended · 6 the service is no sandbox's · 141 nobody reads on.

    Parameters
    ----------
    count
        How many tokens.
    consents
        Over how many new consents; one a token where nothing is said.
    consent
        Id of a consent that the tokens are of, instead of new ones.
    edp
        Client id of the EDP that the tokens are for; where nothing is said, the consent's first or else the sandbox's.
    atp
        Client id of the ATP that they are issued to; the sandbox's first where nothing is said.
    out
        File to write, or - for standard output.
    state
        Folder of the sandbox.
    """
    if consent is not None and (consents is not None or atp is not None):
        raise WrongChoice("--consent names the consent and its ATP: leave --consents and --atp out")
    with MachineClient(load_sandbox(state)) as client, _opened(out) as lines, bar("tokens", count, stays=True) as show:
        written = 0
        of = _of_new(client, count, consents, edp, atp) if consent is None else _of_one(client, count, consent, edp)
        for line in of:
            lines.write(line + "\n")
            written += 1
            show("tokens", written, count)
        if written != count:
            raise NotRunning(f"the service sent {written} of {count} tokens and broke off")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """How far a revocation is to be.

    Attributes
    ----------
    wait_effective
        Wait until the revocation is effective everywhere.
    state
        Folder of the sandbox.
    """

    wait_effective: Annotated[bool, Parameter(negative="")] = False
    state: Path = STATE

    def call(self, method: str, path: str, form: dict[str, Any] | None = None) -> None:
        """Make the call and print what it answered. Raises NotEffective where more was waited for."""
        with MachineClient(load_sandbox(self.state)) as client:
            answer = client.call(method, path, form, **({"wait": WAIT} if self.wait_effective else {}))
        _tell(answer, wait_effective=self.wait_effective)


ASKED = Asked()


@app.command
def revoke(consent_id: str, *, asked: Asked = ASKED, reason: str = "withdrawn") -> None:
    """Revoke a consent. Prints one JSON line: state, position (and its incarnation), how, nodes, milliseconds.

    Exit codes: 0 recorded, or with --wait-effective: no engine node answers the consent active any more · 2 wrong
    input · 3 the sandbox does not answer, or that could not be concluded within 30 s · 4 no such consent · 5 it has
    ended already.

    Parameters
    ----------
    consent_id
        As `ccs sandbox tokens` prints it.
    reason
        withdrawn, moved_out, no_longer_needed, account_closed, error or security.
    """
    asked.call("POST", f"{_path_of(consent_id)}/revoke", {"reason": reason})


@app.command
def revocation(consent_id: str, *, asked: Asked = ASKED) -> None:
    """Say how far a consent's revocation has come, whoever revoked it. Prints one JSON line as `revoke` does.

    Exit codes: 0 recorded, or with --wait-effective: no engine node answers the consent active any more · 2 wrong
    input · 3 the sandbox does not answer, or that could not be concluded within 30 s · 4 no such consent, or it was
    not revoked.

    Parameters
    ----------
    consent_id
        As `ccs sandbox tokens` prints it.
    """
    asked.call("GET", f"{_path_of(consent_id)}/revocation")


@app.command
def guard(
    edp: str, *, port: Port = 8462, receiver_port: Port = 8460, status_port: Port = 8461, state: Path = STATE
) -> None:
    """Write settings of a guard for one of the sandbox's EDPs, with every file they name; prints where they stand.

    Start it with `ccs guard --config FILE`. A second time keys and certificates are kept.

    Exit codes: 0 written · 2 wrong input, or an unusable file · 3 the sandbox does not answer · 4 no such EDP.

    Parameters
    ----------
    edp
        Client id of the EDP.
    port
        Where programs ask on loopback; 0 = any port that is free now, as for the others.
    receiver_port
        Where pushed events arrive.
    status_port
        Health and metrics.
    state
        Folder of the sandbox.
    """
    from admin.cli.sandbox_guard import Ports, write_guard

    with MachineClient(load_sandbox(state)) as client:
        print(write_guard(client, state, edp, Ports(receiver_port, status_port, port)))


def _tell(answer: dict[str, Any], *, wait_effective: bool) -> None:
    """Print how far a revocation is. Raises NotEffective where more was waited for."""
    line = {name: answer[name] for name in ("state", "how", "nodes", "milliseconds")}
    place = answer["position"]
    print(json.dumps({**line, "position": place["seq"], "incarnation": place["incarnation"]}))
    if wait_effective and answer["state"] != "effective":
        raise NotEffective("the revocation is recorded but not yet effective everywhere")


def _of_new(client: MachineClient, count: int, consents: int | None, edp: str | None, atp: str | None) -> Iterator[str]:
    """Lines of tokens over consents that are granted for them."""
    form = {
        "count": count,
        "edp": edp or client.sandbox.edps[0].client_id,
        "atp": atp or client.sandbox.atps[0].client_id,
        **({} if consents is None else {"consents": consents}),
    }
    return client.stream_lines("/sandbox/tokens", form)


def _of_one(client: MachineClient, count: int, consent: str, edp: str | None) -> Iterator[str]:
    """Lines of tokens of one consent, for one of its EDPs."""
    path = _path_of(consent)
    if count < 1:
        raise WrongChoice("--count is at least 1")
    form = {"edp": edp or client.call("GET", path)["edps"][0]}
    for _ in range(count):
        yield json.dumps(client.call("POST", f"{path}/tokens", form), separators=(",", ":"))


def _path_of(consent_id: str) -> str:
    return f"/consents/{quote(consent_id, safe='')}"


@contextmanager
def _opened(out: str) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name only when it is whole."""
    if out == "-":
        yield sys.stdout
        return
    if Path(out).is_dir():
        raise BadOutput(f"{out}: is a directory")
    part = Path(out + ".part")
    try:
        with part.open("w") as file:
            yield file
        part.replace(out)
    except OSError as error:
        raise BadOutput(f"{out}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
