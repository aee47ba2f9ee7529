"""What a guard's settings may name: every address over TLS, and one that can be dialled."""

import msgspec
import pytest

from engine.config import BadConfig
from engine.guard.checking import check_urls, readings
from engine.guard.config import Events, GuardConfig, Receiver
from tests.support.guard_stand import config

BAD = ["", "http://ccs.example", "https://", "https:/ccs.example", "ccs.example:8440", "file:///keys", "https://[::1",
       f"https://{'a' * 64}.example"]  # fmt: skip


def with_service(**changes: object) -> GuardConfig:
    made = config()
    return msgspec.structs.replace(made, service=msgspec.structs.replace(made.service, **changes))


def with_receiver(public_url: str) -> GuardConfig:
    made = config()
    nowhere = made.store.directory
    receiver = Receiver(certificate_file=nowhere, key_file=nowhere, client_ca_file=nowhere, public_url=public_url)
    return msgspec.structs.replace(made, events=Events(receiver=receiver))


def test_what_is_fetched_over_tls_is_taken() -> None:
    check_urls(config())
    check_urls(with_service(machine_url="https://[::1]:8451", jwks_url="https://keys.example/a?b"))
    check_urls(with_receiver("https://edp-7.example/events"))


@pytest.mark.parametrize("url", BAD)
def test_what_is_not_is_refused_by_its_name(url: str) -> None:
    refused = {"issuer": msgspec.structs.replace(config(), issuer=url)}
    if url:
        refused["service.machine-url"] = with_service(machine_url=url)
        refused["service.jwks-url"] = with_service(jwks_url=url)
        refused["service.event-jwks-url"] = with_service(event_jwks_url=url)
        refused["events.receiver.public-url"] = with_receiver(url)
    for name, settings in refused.items():
        with pytest.raises(BadConfig, match=name):
            check_urls(settings)


@pytest.mark.parametrize("origin", ["https://a.example:99999", "https://a.example:0", "https://a.example:b"])
def test_a_port_that_is_none_is_found_before_the_first_share(origin: str) -> None:
    with pytest.raises(BadConfig, match="addresses"):
        readings(with_service(addresses=(origin,)))[0]()
