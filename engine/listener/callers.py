"""Who calls, and whether it may call now: what every endpoint of the listener asks before it looks at a token.

The certificate names the participant (rows 2 and 3 of the introspection sheet's section 8), and each participant has
an allowance a second, counted in items: an introspection is one, a batch is as many as it holds (row 29).
"""

from typing import ClassVar

from engine.clock import BootTime, UnixTime
from engine.consent.records import ClientId, ParticipantRecord
from engine.decision.freshness import Freshness, FreshnessState
from engine.errors import Fault, Kind
from engine.listener.rates import Rates
from engine.listener.refusals import INVALID_CLIENT, Refusal, too_many
from engine.listener.security import DIGEST_SHOWN, SecurityEvent, SecurityEventKind, SecurityEvents
from engine.listener.tls import Peer
from engine.replica.reader import View


class NotServing(Fault):
    """This node cannot tell; 503, and another node may."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


class Callers:
    """One per worker, shared by its endpoints, so that a caller has one allowance whatever it asks."""

    def __init__(self, security: SecurityEvents) -> None:
        self._rates = Rates()
        self._security = security

    def identify(
        self, view: View, peer: Peer, named: str | None, freshness: Freshness, now: UnixTime
    ) -> ParticipantRecord:
        """Whose certificate it is. named: the `client_id` of the message, if any. Raises Refusal, NotServing."""
        if not peer.thumbprint:
            raise Refusal(400, INVALID_CLIENT)
        caller = view.participant_by_thumbprint(peer.thumbprint)
        if caller is None:
            if freshness.state is not FreshnessState.CURRENT:
                raise NotServing("a caller that this node does not know may have been registered since")
            raise Refusal(401, INVALID_CLIENT)
        if named is not None and named != caller.client_id:
            self.report(SecurityEventKind.WRONG_CLIENT, caller)
            raise Refusal(401, INVALID_CLIENT)
        if caller.suspended or not _certificate_is_in_time(caller, peer, now):
            raise Refusal(401, INVALID_CLIENT)
        return caller

    def report_stray(self, peer: Peer) -> None:
        """Somebody names a client in a header (RFC 9440) where no proxy is expected; it is not listened to."""
        kind = SecurityEventKind.STRAY_FORWARDED_CERTIFICATE
        self._security.record(SecurityEvent(kind, ClientId(""), detail=f"from {peer.thumbprint.hex()}"))

    def take(self, caller: ParticipantRecord, items: int, now: BootTime) -> None:
        """Take items from the caller's allowance. Raises Refusal (429)."""
        if not self._rates.admit(caller.client_id, caller.max_requests_per_second, now, items):
            raise too_many()

    def report(self, kind: SecurityEventKind, caller: ParticipantRecord, digest: bytes = b"", detail: str = "") -> None:
        """A security event of this caller's."""
        self._security.record(SecurityEvent(kind, caller.client_id, digest[:DIGEST_SHOWN].hex(), detail))


def _certificate_is_in_time(caller: ParticipantRecord, peer: Peer, now: UnixTime) -> bool:
    registered = next((held for held in caller.certificates if held.thumbprint == peer.thumbprint), None)
    return registered is not None and now < registered.not_after and now < peer.not_after
