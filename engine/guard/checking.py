"""What a guard reads before it starts: by `ccs check-config`, by the start itself, and again at SIGHUP."""

from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

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
        partial(check_urls, config),
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


def check_urls(config: GuardConfig) -> None:
    """All that is fetched or told goes over TLS: whoever could put keys into a plain answer could forge every event.

    Raises BadConfig.
    """
    service, receiver = config.service, config.events.receiver
    told = {
        "issuer": (config.issuer,),
        "service.addresses": service.addresses,
        "service.machine-url": (service.machine_url,) if service.machine_url else (),
        "service.jwks-url": (config.jwks_url,),
        "service.event-jwks-url": (config.event_jwks_url,),
        "events.receiver.public-url": (receiver.public_url,) if receiver is not None and receiver.public_url else (),
    }
    for name, urls in told.items():
        for url in urls:
            if not _is_https(url):
                raise BadConfig(f"{name}: {url!r} is no https://host, or its port is none")


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port above 65535, half an IPv6 address, or a name that no resolver takes
        return False
