"""How many connections each participant may have: judged once for each, when its certificate has been proven.

Each worker counts for itself and grants the whole number, as it does with requests (`rates`). A certificate that no
participant has is let in, to be told so request by request, but all of those share one small number.
"""

from typing import Final

import msgspec

from engine.consent.records import ClientId, Thumbprint
from engine.errors import Fault
from engine.listener.http1 import Response
from engine.listener.refusals import too_many
from engine.listener.tls import Peer
from engine.replica.reader import Replica

STRANGERS: Final = ClientId("")  # no participant has this id
MAX_STRANGERS: Final = 64
TOO_MANY: Final = msgspec.structs.replace(too_many().response, close=True)


class _Held(msgspec.Struct):
    client_id: ClientId
    connections: int


class ConnectionLimits:
    """A `serve.Gate`."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._by_client: dict[ClientId, int] = {}
        self._by_certificate: dict[Thumbprint, _Held] = {}

    def enter(self, peer: Peer) -> Response | None:
        """None = come in, and `leave` at the end. Otherwise the answer to the first request: 429, and goodbye."""
        client_id, allowed = self._judge(peer)
        connections = self._by_client.get(client_id, 0)
        if connections >= allowed:
            return TOO_MANY
        held = self._by_certificate.setdefault(peer.thumbprint, _Held(client_id, 0))
        held.connections += 1
        self._by_client[held.client_id] = self._by_client.get(held.client_id, 0) + 1
        return None

    def leave(self, peer: Peer) -> None:
        """A connection that came in has ended."""
        held = self._by_certificate[peer.thumbprint]
        held.connections -= 1
        self._by_client[held.client_id] -= 1
        if not held.connections:
            del self._by_certificate[peer.thumbprint]
        if not self._by_client[held.client_id]:
            del self._by_client[held.client_id]

    def _judge(self, peer: Peer) -> tuple[ClientId, int]:
        """Whose it is, and how many that one may have. A certificate that is in use stays whose it was."""
        try:
            with self._replica.transaction() as view:
                participant = view.participant_by_thumbprint(peer.thumbprint)
        except Fault:  # the replica cannot be read: requests are told so
            participant = None
        held = self._by_certificate.get(peer.thumbprint)
        if participant is None:
            return (STRANGERS if held is None else held.client_id), MAX_STRANGERS
        return (participant.client_id if held is None else held.client_id), participant.max_connections
