"""What a node tells of its old replica when the ledger begins a new incarnation: the wire form of its report.

A ledger restored with loss has forgotten what came after the backup; nodes that had applied it have not. A report is
told in parts, the last of which says that it is whole. Pseudonymous, as the feed itself: nothing here names a person
or a meter point.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.feed.questions import NodeId

PIECE: Final = 500  # consents and the like in one part: some 100 kB

MAX_PARTICIPANTS: Final = 10_000  # far above how many there are

NameOfState = Annotated[str, Meta(pattern="^[a-z_]{1,40}$")]
UuidText = Annotated[str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
ClientText = Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]
Natural = Annotated[int, Meta(ge=0)]


class TouchedConsent(msgspec.Struct, frozen=True):
    """A consent as the old replica has it. seq: of the event that wrote it. Times: seconds since 1970."""

    consent_id: UuidText
    state: NameOfState
    seq: Natural
    expires_at: Natural
    data_from: int
    data_to: int | None = None
    parties: Annotated[tuple[ClientText, ...], Meta(max_length=20)] = ()  # the ATP, then the EDPs


class TouchedToken(msgspec.Struct, frozen=True):
    """A token that was ended. key: first 16 bytes of SHA-256 over its `jti`, hexadecimal."""

    key: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    expires_at: Natural


class TouchedParticipant(msgspec.Struct, frozen=True):
    """A participant that was written in the gap."""

    client_id: ClientText
    suspended: bool


class GapReport(msgspec.Struct, frozen=True, tag="replica.gap", tag_field="type"):
    """One part of what a node knew. known_under "", known_to 0: its replica was lost, it knows nothing.

    part counts from 1 to parts; total: consents in all parts. participants stand in the last part, all of them. policy:
    the policy was changed in the gap.
    """

    node_id: NodeId
    known_under: Annotated[str, Meta(max_length=16)]  # the incarnation that ended
    known_to: Natural  # everything up to this position of it was applied
    missing_under: Annotated[str, Meta(max_length=16)]  # the new incarnation
    part: Annotated[int, Meta(ge=1)] = 1
    parts: Annotated[int, Meta(ge=1)] = 1
    consents: Annotated[tuple[TouchedConsent, ...], Meta(max_length=PIECE)] = ()
    tokens: Annotated[tuple[TouchedToken, ...], Meta(max_length=PIECE)] = ()
    participants: Annotated[tuple[TouchedParticipant, ...], Meta(max_length=MAX_PARTICIPANTS)] = ()
    policy: bool = False
    total: Natural = 0
