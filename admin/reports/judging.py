"""What the ledger says of a reported share, and what its record of nodes says of a claimed outage. Pure.

The ledger keeps no count of who was answered when: that would be a copy of every share. It does keep which instances of
nodes it hears from, since when without a break of five seconds, and which EDP claimed a one-off consent when, which
takes an answered introspection. An outage that these speak against is for people to look at, not proof of a lie: the
way between the EDP and all the nodes may have been cut.
"""

import enum
from collections.abc import Iterable
from typing import Final

import msgspec

from admin.ledger.instances import Member, Membership
from admin.reports.fallback_forms import Outage, ReportedShare
from engine.clock import UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentRecord, PolicyRecord
from engine.consent.states import ENDED

MARGIN: Final = 60  # seconds for clocks that differ


class Flag(enum.StrEnum):
    """What a share shows that should not be. It is kept all the same."""

    AFTER_END = "after_end"  # the consent had ended: the guard could not know, or did not heed
    OUTSIDE_CONSENT = "outside_consent"  # another ATP, data set or window than was granted
    ONE_OFF = "one_off"  # such a consent is never shared on what was known
    BEYOND_CAP = "beyond_cap"  # longer after the outage began than the policy allows


class Knowledge(msgspec.Struct, frozen=True):
    """What the ledger knows of a consent now. ended_at: when its end was recorded; None: it has not ended."""

    record: ConsentRecord
    ended_at: UnixTime | None

    @classmethod
    def of(cls, record: ConsentRecord, recorded_at: UnixTime) -> "Knowledge":
        """From a consent's newest event: an ended one's is its end."""
        return cls(record, recorded_at if record.state in ENDED else None)

    def concerns(self, edp: ClientId) -> bool:
        """Whether it is this EDP's consent; others do not exist for it."""
        return edp in self.record.edps


class OutageRecord(msgspec.Struct, frozen=True):
    """What speaks against an outage. standing: nodes heard from all through it; answered: claims of this EDP in it."""

    standing: int
    answered: int

    @property
    def is_shown(self) -> bool:
        """Whether nothing speaks against it."""
        return self.standing == 0 and self.answered == 0


def flags_of(share: ReportedShare, known: Knowledge, policy: PolicyRecord) -> tuple[Flag, ...]:
    """In the order of the table."""
    record, form = known.record, share.form
    ends = min(known.ended_at or record.expires_at, record.expires_at)
    data_to = record.expires_at if record.data_to is None else record.data_to
    inside = record.data_from <= share.data_from and share.data_to <= data_to
    found = {
        Flag.AFTER_END: share.at > ends,
        Flag.OUTSIDE_CONSENT: not inside or (form.client_id, form.dataset_id) != (record.atp, record.dataset_id),
        Flag.ONE_OFF: record.access_mode is AccessMode.ONE_OFF,
        Flag.BEYOND_CAP: share.at - share.outage_since > policy.outage_cap + MARGIN,
    }
    return tuple(flag for flag, holds in found.items() if holds)


def record_of(outage: Outage, members: Iterable[Member], claimed: int) -> OutageRecord:
    """members: instances of nodes as they stand now: one that was silent for five seconds is no longer the same."""
    standing = {
        member.node_id
        for member in members
        if member.state is Membership.IN and member.since <= outage.since and member.last_seen >= outage.until
    }
    return OutageRecord(len(standing), claimed)
