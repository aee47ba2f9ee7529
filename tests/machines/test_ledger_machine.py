"""Any order of writes, repeats, erasures and restarts leaves the ledger that a dictionary would predict."""

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio.from_thread
import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from admin.ledger.checkpoints import CheckpointKey
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import (
    Append,
    Idempotency,
    IdempotencyMismatch,
    Receipt,
    VersionConflict,
)
from admin.ledger.verify import verify
from engine.errors import Fault
from tests.support.ledger import HandClock, change, ledger_config, used

NUMBERS = st.integers(0, 3)
PERSONS = st.sampled_from([None, "p-1", "p-2"])
LATE = st.sampled_from([0, 0, 0, 0, 1, -1])  # mostly right: refusals alone lead nowhere
KEYS = st.sampled_from([None, (0, 0), (0, 0), (0, 1), (1, 0), (1, 1)])  # key and body: repeats are to be met often


class LedgerMachine(RuleBasedStateMachine):
    """A real ledger on SQLite beside a model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        directory = Path(self.folder.name)
        self.config = ledger_config(directory, f"sqlite:///{directory}/ledger.db")
        self.portal_context = anyio.from_thread.start_blocking_portal("trio")
        self.portal = self.portal_context.__enter__()
        self.versions: dict[str, int] = {}
        self.readable: dict[str, bytes | None] = {}
        self.owner: dict[str, str | None] = {}
        self.receipts: dict[Idempotency, Receipt] = {}
        self.events = 1
        self.opened: AbstractContextManager[SqlLedger] | None = None

    @initialize()
    def open(self) -> None:
        self.opened = self.portal.wrap_async_context_manager(open_ledger(self.config, HandClock(), checkpoint_every=3))
        self.ledger = self.opened.__enter__()

    @rule()
    def restart(self) -> None:
        self.close()
        self.open()

    @rule(number=NUMBERS, late=LATE, person=PERSONS, key=KEYS)
    def append(self, number: int, late: int, person: str | None, key: tuple[int, int] | None) -> None:
        version = self.versions.get(change(number).subject, 0)
        event = change(number, version + late, person=person)
        idempotency = None if key is None else used(f"k-{key[0]}", b"%d" % key[1])
        self.compare([event], idempotency)

    @rule(numbers=st.lists(NUMBERS, min_size=2, max_size=4), person=PERSONS)
    def append_many(self, numbers: list[int], person: str | None) -> None:
        versions, events = dict(self.versions), []
        for number in numbers:
            subject = change(number).subject
            events.append(change(number, versions.get(subject, 0), person=person))
            versions[subject] = versions.get(subject, 0) + 1
        self.compare(events, None)

    @rule(person=st.sampled_from(["p-1", "p-2"]))
    def erase(self, person: str) -> None:
        self.portal.call(self.ledger.erase_person, person)
        for subject, owner in self.owner.items():
            if owner == person:
                self.readable[subject] = None

    def compare(self, events: list[Append], idempotency: Idempotency | None) -> None:
        expected = self.predict(events, idempotency)
        try:
            found: Receipt | type[Fault] = self.portal.call(self.ledger.append, events, idempotency)
        except Fault as fault:
            found = type(fault)
        if not isinstance(found, Receipt) or not isinstance(expected, int):
            assert found == expected
            return
        assert (found.position.seq, found.replayed) == (expected, False)
        self.events = expected
        for event in events:
            self.versions[event.subject] = event.expected_version + 1
            self.readable[event.subject] = event.personal.plaintext if event.personal else None
            self.owner[event.subject] = event.personal.person_id if event.personal else None
        if idempotency is not None:
            self.receipts[idempotency] = msgspec.structs.replace(found, replayed=True)

    def predict(self, events: list[Append], idempotency: Idempotency | None) -> Any:
        """The position to come, the receipt of earlier, or the kind of refusal."""
        if idempotency in self.receipts:
            return self.receipts[idempotency]
        if idempotency is not None and idempotency.key in {earlier.key for earlier in self.receipts}:
            return IdempotencyMismatch
        if events[0].expected_version != self.versions.get(events[0].subject, 0):
            return VersionConflict
        return self.events + len(events)

    @invariant()
    def subjects_are_as_predicted(self) -> None:
        for subject, version in self.versions.items():
            state = self.portal.call(self.ledger.subject, subject)
            assert state is not None
            assert (state.version, state.personal) == (version, self.readable[subject])

    @invariant()
    def ledger_is_whole(self) -> None:
        if self.opened is None:
            return
        key = CheckpointKey.from_file(self.config.checkpoint_key_file)
        verdict = self.portal.call(verify, self.ledger, key)
        assert (verdict.fault, verdict.events) == (None, self.events)

    def close(self) -> None:
        if self.opened is not None:
            self.opened.__exit__(None, None, None)
            self.opened = None

    def teardown(self) -> None:
        self.close()
        self.portal_context.__exit__(None, None, None)
        self.folder.cleanup()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
