"""Who is who in a sandbox: its authority, everybody's certificates, and the service's keys.

Made once, each only where it is missing, so that a first start that was broken off can be taken up again. In a
folder that was completed nothing is made anew: a key that is gone is said, not silently replaced.
"""

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

from admin.cli.state_folder import ATPS, EDPS, NODE, OPERATOR, PUSHER, BadState, StateFolder
from admin.pki.authority import Authority, Issued
from admin.pki.key_files import generate_secret
from admin.pki.keys import generate_p256_key, generate_token_key
from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.telemetry.host import SystemClock

EVENT_KEY = "event-1.pem"
P256_KEYS = ("checkpoint.pem", EVENT_KEY)
SECRETS = ("feed-mac.key", "meter.key", "person.key")
CLIENTS = (*EDPS, *ATPS, NODE, OPERATOR, PUSHER)


def make_identities(folder: StateFolder, *, new: bool) -> None:
    """Make what is missing in a new folder; check that everything is there in an old one. Raises BadState."""
    if not new:
        _add_pusher(folder)
        folder.check_files(*expected_files(folder))
        check_identities(folder)
        return
    now = SystemClock().now()
    authority = _authority(folder.pki, now)
    _issue(folder.pki, "server", partial(authority.issue_server, now))
    for client in CLIENTS:
        _issue(folder.pki, client, partial(authority.issue_client, ClientId(client), now))
    for name in SECRETS:
        _unless_there(folder.keys / name, generate_secret)
    _unless_there(folder.keys / "token-1.pem", generate_token_key)
    for name in P256_KEYS:
        _unless_there(folder.keys / name, generate_p256_key)


def _add_pusher(folder: StateFolder) -> None:
    """A folder of a version that had none gets one; where only a part is missing, it was lost."""
    certificate, key, event_key = folder.pki / f"{PUSHER}.pem", folder.pki / f"{PUSHER}.key", folder.keys / EVENT_KEY
    if certificate.exists() or key.exists() or event_key.exists() or not (folder.pki / "ca.key").exists():
        return
    generate_p256_key(event_key)
    Authority.open(folder.pki).issue_client(ClientId(PUSHER), SystemClock().now()).write(certificate, key)


def check_identities(folder: StateFolder) -> None:
    """Read every certificate with its key, as its users will. Raises BadState naming the pair that is broken."""
    authority = folder.pki / "ca.pem"
    try:
        ssl.create_default_context(cafile=authority)
    except (ssl.SSLError, OSError) as error:
        raise BadState(f"{authority} cannot be read as a certificate: put it back or use another --state") from error
    for name in ("server", *CLIENTS):
        certificate, key = folder.pki / f"{name}.pem", folder.pki / f"{name}.key"
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
        except (ssl.SSLError, OSError) as error:
            raise BadState(f"{certificate} and {key.name} do not belong together: put them back") from error


def expected_files(folder: StateFolder) -> list[Path]:
    """What a completed folder holds and cannot make again."""
    pairs = [folder.pki / f"{name}{end}" for name in ("ca", "server", *CLIENTS) for end in (".pem", ".key")]
    return pairs + [folder.keys / name for name in (*SECRETS, "token-1.pem", *P256_KEYS)]


def _authority(directory: Path, now: UnixTime) -> Authority:
    if (directory / "ca.pem").exists():
        return Authority.open(directory)
    return Authority.create(directory, now)


def _issue(directory: Path, name: str, issue: Callable[[], Issued]) -> None:
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    if certificate.exists():
        return
    key.unlink(missing_ok=True)
    issue().write(certificate, key)


def _unless_there(path: Path, make: Callable[[Path], object]) -> None:
    if not path.exists():
        make(path)
