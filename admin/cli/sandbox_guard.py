"""`ccs sandbox guard EDP`: a guard's settings for one of the sandbox's EDPs, and every file that they name.

A second time it keeps keys and certificates and writes the settings anew: a sandbox whose ports are drawn at each start
is another issuer each time.
"""

import secrets
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from admin.cli.free_ports import free_port
from admin.cli.machine_client import MachineClient
from admin.cli.running import Client, Sandbox
from admin.cli.state_folder import HOST, write_atomically
from admin.pki.authority import Authority
from admin.pki.key_files import generate_secret, write_private
from engine.errors import Fault, Kind
from engine.telemetry.host import SystemClock

_SETTINGS: Final = "guard.toml"


class UnknownEdp(Fault):
    """The sandbox has no EDP of this name."""

    kind = Kind.NOT_FOUND


class Ports:
    """Where the guard listens. Each 0: any port that is free now."""

    def __init__(self, receiver: int, status: int, sidecar: int) -> None:
        self.receiver = receiver or free_port(HOST)
        self.status = status or free_port(HOST)
        self.sidecar = sidecar or free_port(HOST)


def write_guard(client: MachineClient, state: Path, edp: str, ports: Ports) -> Path:
    """Make what is missing, register the receiver's certificate, write the settings; returns where they stand.

    Raises UnknownEdp, BadKeyFile, NotRunning, and what the service refuses.
    """
    sandbox = client.sandbox
    party = next((party for party in sandbox.edps if party.client_id == edp), None)
    if party is None:
        raise UnknownEdp(f"no EDP {edp} in this sandbox: {', '.join(party.client_id for party in sandbox.edps)}")
    folder = (state / "guard" / edp).absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_files(folder, state / "pki")
    _register(client, party, folder / "receiver.pem")
    write_atomically(folder / _SETTINGS, settings(sandbox, party, folder, ports).encode())
    return folder / _SETTINGS


def settings(sandbox: Sandbox, party: Client, folder: Path, ports: Ports) -> str:
    """The text of the settings file; paths are absolute."""
    introspection = sandbox.introspection_endpoint.removesuffix("/introspect")
    return f"""\
client-id = "{party.client_id}"
issuer = "{sandbox.issuer}"
answers = "{party.answers}"

[service]
addresses = ["{introspection}"]
machine-url = "{sandbox.admin_mtls_url}"
ca-file = "{sandbox.ca_file}"
certificate-file = "{party.certificate_file}"
key-file = "{party.key_file}"

[store]
directory = "{folder / "store"}"
key-file = "{folder / "store.key"}"

[events.receiver]
host = "{HOST}"
port = {ports.receiver}
public-url = "https://localhost:{ports.receiver}/events"
certificate-file = "{folder / "receiver.pem"}"
key-file = "{folder / "receiver.key"}"
client-ca-file = "{sandbox.ca_file}"

[sidecar]
socket = "{folder / "guard.sock"}"
port = {ports.sidecar}
secret-file = "{folder / "secret"}"
status-port = {ports.status}
"""


def _make_files(folder: Path, pki: Path) -> None:
    """The store's key, the secret, the receiver's certificate; each only where it is missing."""
    _unless_there(folder / "store.key", generate_secret)
    _unless_there(folder / "secret", lambda path: write_private(path, secrets.token_hex(32).encode() + b"\n"))
    if not (folder / "receiver.pem").exists():
        (folder / "receiver.key").unlink(missing_ok=True)
        issued = Authority.open(pki).issue_server(SystemClock().now())
        issued.write(folder / "receiver.pem", folder / "receiver.key")


def _unless_there(path: Path, make: Callable[[Path], object]) -> None:
    if not path.exists():
        make(path)


def _register(client: MachineClient, party: Client, receiver: Path) -> None:
    """Events go only to an address that shows a certificate which the directory has for this client."""
    form: dict[str, Any] = {"certificates": [_encoded(party.certificate_file), _encoded(receiver)]}
    try:
        client.call("POST", f"/participants/{party.client_id}/certificates", form)
    except Fault as fault:
        if fault.kind is not Kind.CONFLICT:  # registered before
            raise


def _encoded(certificate: Path) -> str:
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return b64encode(found.public_bytes(Encoding.DER)).decode()
