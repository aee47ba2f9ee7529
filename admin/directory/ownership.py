"""A certificate stands for one client: each is a subject of the ledger, so two that claim it at once meet there.

Whoever registers a certificate appends to its subject in the same write, at the version it has seen. The second of
two simultaneous registrations is therefore refused by the ledger itself, whatever either process had read before.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from admin.directory.participants import CertificateTaken
from admin.ledger.events import Act, CertificateBound, CertificateReleased, append_of, event_of
from admin.ledger.store import Append, LedgerReader
from engine.consent.records import Certificate, ClientId, Thumbprint


class Ownership(msgspec.Struct, frozen=True):
    """How a certificate's subject stands. owner: None = nobody's now; version: 0 = never registered as a subject."""

    version: int = 0
    owner: ClientId | None = None


async def ownerships(ledger: LedgerReader, certificates: Iterable[Certificate]) -> dict[Thumbprint, Ownership]:
    """How each of these certificates stands in the ledger now."""
    return {one.thumbprint: await _ownership(ledger, one.thumbprint) for one in certificates}


def transfer(
    client_id: ClientId,
    before: Sequence[Certificate],
    after: Sequence[Certificate],
    standing: Mapping[Thumbprint, Ownership],
    act: Act,
) -> list[Append]:
    """What makes the certificates in `after` the client's, and frees those of `before` that it gives up.

    standing: of all of them, as `ownerships` gives it. Raises CertificateTaken where one is another client's.
    """
    kept = {one.thumbprint for one in after}
    given_up = [one.thumbprint for one in before if one.thumbprint not in kept]
    if any(standing[thumbprint].owner not in (None, client_id) for thumbprint in kept):
        raise CertificateTaken("a certificate is registered for another client")
    bound = [
        append_of(CertificateBound(one.thumbprint, client_id, act), standing[one.thumbprint].version)
        for one in after
        if standing[one.thumbprint].owner is None
    ]
    released = [
        append_of(CertificateReleased(thumbprint, client_id, act), standing[thumbprint].version)
        for thumbprint in given_up
        if standing[thumbprint].owner == client_id
    ]
    return bound + released


async def _ownership(ledger: LedgerReader, thumbprint: Thumbprint) -> Ownership:
    state = await ledger.subject(f"certificate:{thumbprint.hex()}")
    if state is None:
        return Ownership()
    event = event_of(state.event)
    return Ownership(state.version, event.client_id if isinstance(event, CertificateBound) else None)
