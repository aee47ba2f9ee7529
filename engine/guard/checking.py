"""What a guard reads before it starts: by `ccs check-config`, by the start itself, and again at SIGHUP."""

from collections.abc import Callable
from functools import partial

from engine.config import BadConfig
from engine.guard import doors
from engine.guard.config import GuardConfig
from engine.guard.events import service_tls
from engine.guard.sealing import StoreKey
from engine.guard.store import USE
from engine.listener.tls import server_context


def check(config: GuardConfig) -> None:
    """Read everything once. Raises a Fault of one sentence that names the file."""
    for read in readings(config):
        read()


def readings(config: GuardConfig) -> list[Callable[[], object]]:
    """Each thing to be read, by itself; each raises a Fault that names the file."""
    found: list[Callable[[], object]] = [
        partial(service_tls, config),
        partial(StoreKey.from_file, config.store.key_file, config.client_id, USE),
    ]
    receiver, sidecar = config.events.receiver, config.sidecar
    if receiver is not None:
        found.append(partial(server_context, receiver.certificate_file, receiver.key_file, receiver.client_ca_file))
        if not config.service.machine_url:
            raise BadConfig("events.receiver needs `service.machine-url`: there its address is made known")
    if sidecar is not None:
        found.append(partial(doors.check, sidecar))
    return found
