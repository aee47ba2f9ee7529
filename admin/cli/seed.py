"""Fills a new sandbox, through its API: EDPs, ATPs and consents of made people. A second run changes nothing.

Participants are registered where they are missing; each batch of consents has a key of its own, so that a batch
that was written once is never written again, also when a first start was broken off in the middle.
"""

from base64 import b64encode
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console

from admin.cli.machine_client import MachineClient
from admin.cli.running import Client, Sandbox, load_sandbox
from engine.errors import Fault, Kind

BATCH: Final = 1_000  # what the service appends as one
# A sandbox is where things are measured: its EDPs must not be held back by limits meant for the open world.
MAX_CONNECTIONS: Final = 10_000
MAX_REQUESTS_PER_SECOND: Final = 1_000_000
NAMES: Final = {
    "edp-1": "Lantern Energy Data",
    "edp-2": "Harbour Metering",
    "edp-3": "Gorse Hill Data Services",
    "atp-1": "Tariff Finder",
    "atp-2": "Warm Home Planner",
}


def seed(state: Path, *, consents: int, console: Console | None = None) -> None:
    """Register the sandbox's participants and grant `consents` consents of made people, where they are missing.

    Raises NotRunning, and what the service refuses.
    """
    sandbox = load_sandbox(state)
    with MachineClient(sandbox) as client:
        for form in registrations(sandbox):
            _register(client, form)
        for first in range(0, consents, BATCH):
            _grant(client, first, min(BATCH, consents - first))
            if console is not None and first and first % (20 * BATCH) == 0:
                console.print(f"    {first:,} of {consents:,} consents")


def registrations(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The forms of all participants that the sandbox describes."""
    edps = [
        {
            **_form(edp, "edp"),
            "organisation": {
                "name": NAMES.get(edp.client_id, edp.client_id),
                "locations": [f"https://api.{edp.client_id}.example/hh"],
            },
            "datasets": list(edp.datasets),
            "answers": edp.answers,
            "handles_last_known": True,
            "max_connections": MAX_CONNECTIONS,
            "max_requests_per_second": MAX_REQUESTS_PER_SECOND,
        }
        for edp in sandbox.edps
    ]
    atps = [
        {**_form(atp, "atp"), "organisation": {"name": NAMES.get(atp.client_id, atp.client_id)}} for atp in sandbox.atps
    ]
    # Bootstrapped in a new ledger; one of an earlier version does not have it yet.
    pushers = [
        {**_form(pusher, "pusher"), "organisation": {"name": pusher.client_id}}
        for pusher in (sandbox.pusher,)
        if pusher is not None
    ]
    return edps + atps + pushers


def _form(party: Client, role: str) -> dict[str, Any]:
    pem = party.certificate_file.read_bytes()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    return {"client_id": party.client_id, "role": role, "certificates": [b64encode(der).decode()]}


def _register(client: MachineClient, form: dict[str, Any]) -> None:
    try:
        client.call("GET", f"/participants/{form['client_id']}")
    except Fault as fault:
        if fault.kind is not Kind.NOT_FOUND:
            raise
        client.call("POST", "/participants", form)


def _grant(client: MachineClient, first: int, count: int) -> None:
    sandbox = client.sandbox
    form = {
        "first": first,
        "count": count,
        "edps": [edp.client_id for edp in sandbox.edps],
        "atps": [atp.client_id for atp in sandbox.atps],
    }
    try:
        client.call("POST", "/sandbox/consents", form, key=f"seed-consents-{first}")
    except Fault as fault:
        if fault.kind is not Kind.CONFLICT:  # the batch stands, with another number of people
            raise
