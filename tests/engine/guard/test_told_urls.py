"""URLs that the service tells: one that cannot be called is a refusal of that answer, and never the end of the part."""

import json
import ssl
from typing import Any

import anyio
import pytest

from engine.guard.transmitter import NotTold
from engine.guard.transmitter_https import POLL_URN, PUSH_URN, HttpsTransmitter, _Configuration, _decode, _Discovery

UNCALLABLE = ["https://[::1", "https://a:x/", "https://a b\u0000/", "https://", "https://:443/", "https://a..b/"]
ENDPOINTS = (
    "configuration_endpoint",
    "status_endpoint",
    "verification_endpoint",
    "ccs_confirmation_endpoint",
)


def discovery(**members: str) -> bytes:
    told = {"issuer": "https://ccs.example"} | dict.fromkeys(ENDPOINTS, "https://ccs.example:8443/ssf?a=b")
    return json.dumps(told | members).encode()


def configuration(method: str, url: str) -> bytes:
    delivery: dict[str, Any] = {"method": method, "endpoint_url": url}
    return json.dumps([{"stream_id": "s", "delivery": delivery}]).encode()


@pytest.mark.parametrize("url", UNCALLABLE)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_discovery_with_a_url_that_cannot_be_called_is_none(endpoint: str, url: str) -> None:
    assert _decode(discovery(), _Discovery).issuer == "https://ccs.example"
    with pytest.raises(NotTold):
        _decode(discovery(**{endpoint: url}), _Discovery)


@pytest.mark.parametrize("url", UNCALLABLE)
def test_a_poll_stream_that_cannot_be_polled_is_none_and_a_push_stream_is_there_to_be_moved(url: str) -> None:
    kind = tuple[_Configuration, ...]
    assert _decode(configuration(POLL_URN, "https://ccs.example/poll"), kind)[0].stream_id == "s"
    assert _decode(configuration(PUSH_URN, url), kind)[0].delivery.endpoint_url == url
    with pytest.raises(NotTold):
        _decode(configuration(POLL_URN, url), kind)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("url", UNCALLABLE)
def test_a_url_that_was_kept_before_is_a_refusal_when_it_is_called(url: str, backend: str) -> None:
    async def call() -> None:
        service = HttpsTransmitter("https://ccs.example", "https://ccs.example", url, ssl.create_default_context())
        try:
            with pytest.raises(NotTold):
                await service.event_keys()
            with pytest.raises(NotTold):
                await service.poll(url, ["jti"], 10, {})
        finally:
            await service.aclose()

    anyio.run(call, backend=backend)
