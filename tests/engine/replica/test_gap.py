"""What a node keeps and tells when a restored ledger has lost what it knew."""

import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from engine.clock import UnixTime
from engine.consent.records import PolicyRecord, RestoreRecord
from engine.consent.states import State
from engine.feed.entries import Entry, EntryKind, Position
from engine.feed.gap_reports import GapReport, TouchedParticipant, TouchedToken
from engine.replica import gap, layout
from engine.replica.environment import Environment
from engine.replica.gap import keep, past_of_replica, reports_of
from engine.replica.reader import view_of
from engine.replica.store import ReplicaStore
from tests.support.replicas import (
    INCARNATION,
    NOW,
    OTHER_INCARNATION,
    bound,
    consent,
    consent_entry,
    consent_key,
    entry,
    open_store,
    participant,
    participant_entry,
    policy_entry,
    revocation_entry,
    thumbprint,
)

KEPT_TO = 10  # the backup held the events up to here
KNOWN = Position(INCARNATION, 40)
NEW = Position(OTHER_INCARNATION, 140)
ENDED = consent(State.REVOKED, version=2)


def restored(seq: int, incarnation: str = INCARNATION, *, kept_to: int = KEPT_TO) -> Entry:
    record = RestoreRecord(kept_to, 40, UnixTime(NOW - 60), NOW)
    return entry(seq, EntryKind.RECOVERY, incarnation.encode(), record)


def holding(directory: Path, applied: int, entries: Sequence[Entry]) -> ReplicaStore:
    """A replica with these records, at whatever positions, as a snapshot brings them."""
    store = open_store(directory)
    generation = store.begin_generation()
    with generation.environment.writing() as txn:
        from engine.replica.store import write_entries

        write_entries(generation.environment, txn, entries)
    generation.seal(bound(applied))
    store.adopt(generation)
    return store


class Two:
    """An old replica and the one that takes its place."""

    def __init__(self, directory: Path, old: Sequence[Entry], new: Sequence[Entry]) -> None:
        self._stores = [holding(directory / "old", KNOWN.seq, old), holding(directory / "new", NEW.seq, new)]
        environments = [store.environment for store in self._stores]
        assert all(environments)
        self.old, self.new = (one for one in environments if one is not None)

    def keep(self) -> list[gap.Kept]:
        return keep(self.old, self.new, NEW, past_of_replica(self.new), KNOWN.incarnation)

    def reports(self) -> list[GapReport]:
        past = past_of_replica(self.new)
        return reports_of(self.old, self.new, past, node_id="n", known=KNOWN, missing_under=NEW.incarnation)

    def close(self) -> None:
        for store in self._stores:
            store.close()


def id_of(number: int) -> str:
    return str(uuid.UUID(bytes=consent_key(number)))


def test_ends_of_the_old_incarnation_are_kept_where_the_new_one_has_none(tmp_path: Path) -> None:
    disputed = consent(State.TERMINATED_BY_DISPUTE, version=5)
    two = Two(
        tmp_path,
        [
            consent_entry(1, 1, ENDED),  # the new one thinks it is active
            consent_entry(2, 2, ENDED),  # the new one does not know it
            consent_entry(3, 3, ENDED),  # the new one knows better: ended, otherwise
            consent_entry(4, 4),  # active in both
            revocation_entry(5, b"a" * 16, NOW),
            revocation_entry(6, b"b" * 16, NOW),
        ],
        [
            consent_entry(1, 1),
            consent_entry(2, 3, disputed),
            consent_entry(3, 4, consent(version=9)),
            revocation_entry(4, b"a" * 16, NOW + 5),
        ],
    )
    assert two.keep() == [
        (EntryKind.CONSENT, consent_key(1)),
        (EntryKind.CONSENT, consent_key(2)),
        (EntryKind.TOKEN_REVOCATION, b"b" * 16),
    ]
    with view_of(two.new) as view:
        assert [view.consent(consent_key(n)) for n in (1, 2, 3)] == [ENDED, ENDED, disputed]
        assert view.consent(consent_key(4)) == consent(version=9)
        assert view.token_revoked(b"b" * 16)
    two.close()


def test_everything_written_after_the_backup_is_told_and_nothing_before(tmp_path: Path) -> None:
    two = Two(
        tmp_path,
        [
            consent_entry(10, 1),
            consent_entry(11, 2, consent(version=2)),  # renewed, say
            consent_entry(12, 3),  # granted: the ledger has lost it
            consent_entry(13, 4, ENDED),
            participant_entry(9, participant("edp-a", "a")),
            participant_entry(14, participant("edp-b", "b", suspended=True)),
            participant_entry(15, participant("edp-c", "c2")),
            revocation_entry(16, b"t" * 16, NOW + 5),
            policy_entry(17, PolicyRecord()),
        ],
        [
            consent_entry(10, 1),
            consent_entry(2, 2),
            consent_entry(3, 4),
            participant_entry(4, participant("edp-b", "b")),
            participant_entry(5, participant("edp-c", "c1")),
            restored(140),
        ],
    )
    (report,) = two.reports()
    assert (report.known_under, report.known_to, report.missing_under) == (INCARNATION, 40, OTHER_INCARNATION)
    told = [(one.consent_id, one.state, one.seq) for one in report.consents]
    assert told == [(id_of(2), "active", 11), (id_of(3), "active", 12), (id_of(4), "revoked", 13)]
    assert report.participants == (TouchedParticipant("edp-b", True), TouchedParticipant("edp-c", False))  # noqa: FBT003 - suspended
    assert report.tokens == (TouchedToken((b"t" * 16).hex(), NOW + 5),)
    assert report.policy
    two.close()


def test_a_suspension_of_the_gap_is_kept_until_the_ledger_has_spoken_again(tmp_path: Path) -> None:
    gone = [
        participant_entry(14, participant("edp-b", "b", suspended=True)),
        participant_entry(15, participant("edp-c", "c", suspended=True)),
    ]
    since = [
        participant_entry(4, participant("edp-b", "other")),
        participant_entry(150, participant("edp-c", "c")),  # reinstated under the new incarnation, say
        restored(140),
    ]
    two = Two(tmp_path, gone, since)
    assert two.keep() == [(EntryKind.PARTICIPANT, b"edp-b")]
    with view_of(two.new) as view:
        found = view.participant_by_thumbprint(thumbprint("other"))
        assert found == participant("edp-b", "other", suspended=True)
        assert view.participant_by_thumbprint(thumbprint("c")) == participant("edp-c", "c")
    two.close()


def test_what_was_kept_yields_to_the_new_incarnations_next_word_even_if_positions_overlap(tmp_path: Path) -> None:
    """A node may have applied more than anybody knew when the ledger was restored."""
    far = consent_entry(9_000, 1, ENDED)
    two = Two(tmp_path, [far], [consent_entry(3, 1), restored(140)])
    two.keep()
    with two.new.lmdb.begin() as txn:
        value = txn.get(consent_key(1), b"", db=two.new.consents)
    assert layout.stamped_at(value) == NEW.seq
    two.close()


def test_a_long_report_comes_in_parts_that_say_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap, "PIECE", 2)
    two = Two(tmp_path, [consent_entry(10 + n, n) for n in range(1, 6)], [restored(140)])
    reports = two.reports()
    assert [(one.part, one.parts, len(one.consents)) for one in reports] == [(1, 3, 2), (2, 3, 2), (3, 3, 1)]
    two.close()


def test_over_two_restores_a_node_compares_with_the_one_that_ended_what_it_knew(tmp_path: Path) -> None:
    """It was down while the ledger was restored twice; the second backup held more than the first."""
    second = restored(300, "c" * 16, kept_to=250)
    two = Two(tmp_path, [consent_entry(10, 1), consent_entry(11, 2)], [restored(140), second])
    assert [one.consent_id for one in two.reports()[0].consents] == [id_of(2)]
    two.close()


def test_without_a_restore_that_names_the_incarnation_only_ends_are_told(tmp_path: Path) -> None:
    two = Two(tmp_path, [consent_entry(11, 1), consent_entry(12, 2, ENDED)], [consent_entry(3, 1)])
    assert [one.consent_id for one in two.reports()[0].consents] == [id_of(2)]
    two.close()


def test_a_replica_of_an_earlier_program_gains_the_databases_it_lacks(tmp_path: Path) -> None:
    store = holding(tmp_path, 40, [consent_entry(1, 1)])
    assert store.environment is not None
    with store.environment.writing() as txn:
        for database in (store.environment.recovery, store.environment.doubts):
            txn.drop(database)
    store.close()
    store = open_store(tmp_path)
    assert store.discarded is None
    assert isinstance(store.environment, Environment)
    with view_of(store.environment) as view:
        assert view.moment.recovery is None
        assert view.consent(consent_key(1)) == consent()
    store.close()


def test_an_unreadable_restore_is_a_broken_replica(tmp_path: Path) -> None:
    spoilt = msgspec.structs.replace(restored(140), record=b"no record")
    store = holding(tmp_path, 140, [spoilt])
    assert store.environment is not None
    with pytest.raises(layout.BrokenReplica), view_of(store.environment):
        pass
    store.close()
