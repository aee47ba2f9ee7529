"""The store on disk does what the dictionary does, over stops and crashes."""

import copy
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.clock import UnixTime
from engine.guard.memory import Memory
from engine.guard.shares import KnownToken
from engine.guard.store import GuardStore
from tests.support.guard_memory import InMemory
from tests.support.guard_stores import OWNER, Wall, crash, store_settings
from tests.support.known_tokens import CONSENT, NOW, OTHER_CONSENT, entry, known_consent, known_token

TOKENS = ("a", "b", "c")
PARTIES = ("atp-1", "atp-2")
names = st.sampled_from(TOKENS)
consents = st.sampled_from([CONSENT, OTHER_CONSENT])
versions = st.integers(1, 4)
ends = st.sampled_from(["2026-03-01T00:00:00Z", "2026-06-01T00:00:00Z", "2027-01-01T00:00:00Z"])


class StoreMachine(RuleBasedStateMachine):
    """Each rule is done to both; the dictionary of the last moment on disk is what a crash goes back to."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="guard-store-"))
        self.wall = Wall()
        self.model = InMemory()
        self.store = self.open()
        self.store.mark_whole()
        self.on_disk = copy.deepcopy(self.model)
        self.seen: tuple[GuardStore, int, list[KnownToken]] = (self.store, -1, [])

    def open(self) -> GuardStore:
        return GuardStore(store_settings(self.directory), OWNER, self.wall)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.directory)

    @rule(name=names, consent_id=consents, version=versions, to=ends, party=st.sampled_from(PARTIES), at=versions)
    def remember(self, name: str, consent_id: str, version: int, to: str, party: str, at: int) -> None:
        shown = known_consent(consent_id, version=version, data_to=to)
        when = UnixTime(NOW + at)
        known = known_token(name, client_id=party, consents=(shown,), as_of=when, answered_at=when)
        for memory in (self.store, self.model):
            memory.remember(known)
        store, heard, before = self.seen  # of this token another consent is shown now, which may have ended long ago
        self.seen = store, heard, [one for one in before if one.digest != known.digest]

    @rule(name=names, at=versions)
    def refuse(self, name: str, at: int) -> None:
        for memory in (self.store, self.model):
            memory.refuse(known_token(name).digest, UnixTime(NOW + at))

    @rule(consent_id=consents, version=versions)
    def end(self, consent_id: str, version: int) -> None:
        for memory in (self.store, self.model):
            memory.end(consent_id, version, NOW)

    @rule(consent_id=consents, version=versions, to=ends)
    def change(self, consent_id: str, version: int, to: str) -> None:
        for memory in (self.store, self.model):
            memory.change(consent_id, version, entry(consent_id, data_to=to), None)

    @rule(party=st.sampled_from(PARTIES), version=versions, suspended=st.booleans())
    def suspend(self, party: str, version: int, suspended: bool) -> None:
        for memory in (self.store, self.model):
            memory.suspend(party, version, suspended=suspended)

    @rule(at=versions)
    def mark_missing(self, at: int) -> None:
        for memory in (self.store, self.model):
            memory.mark_missing(UnixTime(NOW + at))

    @rule()
    def mark_whole(self) -> None:
        for memory in (self.store, self.model):
            memory.mark_whole()

    @rule(consent_id=consents, name=names, fails=st.booleans())
    def write_together(self, consent_id: str, name: str, fails: bool) -> None:
        for memory in (self.store, self.model):
            several(memory, consent_id, name, fails=fails)

    @rule(seconds=st.integers(0, 90))
    def time_passes(self, seconds: int) -> None:
        self.wall.forward(seconds)

    @rule()
    def flush(self) -> None:
        self.store.flush()

    @rule()
    def stop_and_start(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule()
    def crash_and_start(self) -> None:
        crash(self.store)
        self.store = self.open()
        self.model = copy.deepcopy(self.on_disk)

    @invariant()
    def what_was_shown_stands_as_long_as_nothing_is_heard(self) -> None:
        if not hasattr(self, "store"):
            return
        store, heard, shown = self.seen
        if store is self.store and heard == self.store.heard:
            for known in shown:
                assert self.store.look(known.digest) is not None
                assert not any(self.store.has_ended(consent.consent_id) for consent in known.consents)
        looks = [self.store.look(known_token(name).digest) for name in TOKENS]
        self.seen = self.store, self.store.heard, [known for known in looks if known is not None]

    @invariant()
    def both_know_the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        for name in TOKENS:
            digest = known_token(name).digest
            assert self.store.look(digest) == self.model.look(digest)
            assert self.store.look_for_no(digest) == self.model.look_for_no(digest)
        assert self.store.missing_since() == self.model.missing_since()
        statistics = self.store.statistics()
        assert statistics.anew == 0
        if statistics.waiting == 0:
            self.on_disk = copy.deepcopy(self.model)


class Undone(Exception):
    """Something else went wrong inside."""


def several(memory: Memory, consent_id: str, name: str, *, fails: bool) -> None:
    try:
        with memory.together():
            memory.end(consent_id, 2, NOW)
            memory.refuse(known_token(name).digest, NOW)
            memory.mark_missing(NOW)
            if fails:
                raise Undone
    except Undone:
        pass


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
