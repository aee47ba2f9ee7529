"""Where a recovery stands: who has reported, what is in doubt, and what speaks against going live. Pure.

What nobody has told yet cannot be listed. Two things can be known of it: which known parties have not spoken, and
whether some node has told everything up to the highest position that was ever reported. While either is open, going
live needs an operator who says so by name and gives a reason.
"""

from typing import Final

import msgspec

from admin.ledger.events import Change, RecoveryReported, RecoveryTold
from engine.clock import UnixTime
from engine.consent.records import ClientId, RestoreRecord, Role
from engine.consent.recovery import Recovery

UNTOLD: Final = "untold-events"  # in `without`: events that were reported and that no node has told; no client's id


class Party(msgspec.Struct, frozen=True):
    """A participant that must report. report: its newest one since the restore, if it is complete or a node's."""

    client_id: ClientId
    role: Role
    report: RecoveryReported | None


class Told(msgspec.Struct, frozen=True):
    """What was told of a consent, at a position, and the consent's newest event, if the ledger has one."""

    event: RecoveryTold
    seq: int
    consent_seq: int = 0  # 0 = the ledger does not have it
    has_ended: bool = False

    @property
    def in_doubt(self) -> bool:
        """Whether the ledger has said nothing of the consent since."""
        return self.consent_seq < self.seq


class Standing(msgspec.Struct, frozen=True):
    """All that is known of the newest restore. ended_under: the incarnation that ended with it."""

    recovery: Recovery | None  # None: the ledger has gone live
    restore: RestoreRecord
    ended_under: str
    parties: tuple[Party, ...]
    told: tuple[Told, ...]

    @property
    def missing(self) -> tuple[Party, ...]:
        """Who has not reported."""
        return tuple(party for party in self.parties if party.report is None)

    @property
    def in_doubt(self) -> tuple[Told, ...]:
        return tuple(told for told in self.told if told.in_doubt)

    @property
    def ended(self) -> int:
        """Consents that have ended since they were told of."""
        return sum(told.has_ended for told in self.told)

    @property
    def told_to(self) -> int:
        """Up to which position of the incarnation that ended some node has told everything."""
        reports = [party.report for party in self.parties if party.report is not None]
        known = [report.known_to for report in reports if report.known_under == self.ended_under]
        return max(known, default=self.restore.restored_seq)

    @property
    def untold(self) -> int:
        """How many events were reported by somebody once and told by nobody now."""
        return max(0, self.restore.reported_seq - self.told_to)

    @property
    def obstacles(self) -> tuple[str, ...]:
        """What going live must be `without`: client ids, and UNTOLD."""
        missing = tuple(str(party.client_id) for party in self.missing)
        return missing + ((UNTOLD,) if self.untold else ())

    @property
    def to_repeat(self) -> tuple[Told, ...]:
        """Lost grants, renewals and the like: somebody has to do them again."""
        return tuple(told for told in self.in_doubt if told.event.change not in (Change.CONSUMED, Change.EXPIRED))

    @property
    def to_look_at(self) -> tuple[str, ...]:
        """Participants that were written in the gap, and `policy`: an operator has to look whether they are right."""
        reports = [party.report for party in self.parties if party.report is not None]
        clients = sorted({str(client) for report in reports for client in report.participants})
        return (*clients, "policy") if any(report.policy for report in reports) else tuple(clients)

    def of(self, client_id: ClientId) -> "Standing":
        """What one party may see: itself, and what was told of its own consents."""
        parties = tuple(party for party in self.parties if party.client_id == client_id)
        told = tuple(told for told in self.told if client_id in told.event.parties)
        return msgspec.structs.replace(self, parties=parties, told=told)


def is_whole(report: RecoveryReported, covers_from: UnixTime) -> bool:
    """Whether a report says all that its teller knows of the gap. A node's always does."""
    if report.role is Role.NODE:
        return True
    return report.complete and report.since is not None and report.since <= covers_from
