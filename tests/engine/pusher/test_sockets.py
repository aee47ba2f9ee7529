"""A socket that cannot be had is an address that is not reached, and nothing worse."""

import hashlib
import socket
import ssl
from contextlib import suppress
from typing import Final

import pytest
import trio

from engine.clock import Seconds
from engine.consent.records import ClientId, Thumbprint
from engine.pusher.connections import Unreached
from engine.pusher.egress import Address, Egress, EgressConfig
from engine.pusher.schedule import Reply, Trouble
from engine.pusher.targets import target_of
from tests.support.pki import Pki
from tests.support.push_receivers import receiving

EDP: Final = ClientId("edp-1")
CONFIG: Final = EgressConfig(allow_private=True, connect=Seconds(1.0), whole=Seconds(1.5))
# Of a family that no kernel knows: as an IPv6 address is where there is no IPv6, or any where no descriptor is left.
NO_SOCKET: Final[Address] = (250, ("::1", 1, 0, 0))


def thumbprints(pki: Pki) -> frozenset[Thumbprint]:
    certificate = ssl.PEM_cert_to_DER_cert(pki.server_certificate_file.read_text())
    return frozenset((Thumbprint(hashlib.sha256(certificate).digest()),))


def egress(pki: Pki, *addresses: Address) -> Egress:
    async def resolve(_host: str, _port: int) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return list(addresses)

    return Egress(pki.client_context("pusher-1"), CONFIG, resolve=resolve)


async def test_an_address_of_a_family_that_is_not_there_is_told_as_unreached(pki: Pki) -> None:
    with pytest.raises(Unreached) as caught:
        await egress(pki, NO_SOCKET).push(EDP, target_of("https://edp.example/", frozenset()), b"a set")
    assert caught.value.trouble is Trouble.CONNECT


async def test_the_next_address_is_tried_where_the_first_has_no_socket(pki: Pki) -> None:
    async with receiving(pki.server_context()) as running:
        outward = egress(pki, NO_SOCKET, (int(socket.AF_INET), ("127.0.0.1", running.port)))
        assert await outward.push(EDP, target_of("https://localhost/", thumbprints(pki)), b"a set") == Reply(202)
        outward.close()


async def test_a_server_that_refuses_our_certificate_is_no_broken_connection(pki: Pki) -> None:
    """Operators are told to look at the pusher's own certificate where many receivers answer so."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = target_of(f"https://127.0.0.1:{listening.getsockname()[1]}/", thumbprints(pki))
        outward = Egress(pki.client_context(None), CONFIG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, refuse, listening, pki.server_context())
            with pytest.raises(Unreached) as caught:
                await outward.push(EDP, where, b"a set")
        assert caught.value.trouble is Trouble.TLS


def refuse(listening: socket.socket, context: ssl.SSLContext) -> None:
    """One connection: its handshake fails, and what else comes is read to its end, so that the alert gets through."""
    accepted, _ = listening.accept()
    accepted.settimeout(30)
    with context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as connection:
        with suppress(ssl.SSLError):
            connection.do_handshake()
        while socket.socket.recv(connection, 65_536):
            pass
