"""Learning what was missed: by poll, where that leaves a hole by the listing of changes, else by the snapshot.

Each step may be broken off and done again. What a listing says is applied before the chain is set to what it covers.
"""

from collections.abc import Sequence
from typing import Final

from engine.clock import Clock
from engine.consent.states import ENDED, State
from engine.events.sets import wire_state
from engine.guard.applying import change_consent
from engine.guard.event_store import EventStore
from engine.guard.intake import Intake
from engine.guard.memory import Memory
from engine.guard.polling import Polling
from engine.guard.transmitter import ListedConsent, ListedParty, TooOld, Transmitter
from engine.guard.watch import Standing, Watch
from engine.telemetry import logs

TRIES: Final = 3  # a snapshot that takes longer than the service keeps it is begun anew
_ENDED: Final = frozenset(wire_state(state) for state in ENDED)
_ACTIVE: Final = wire_state(State.ACTIVE)
_KNOWN: Final = _ENDED | {_ACTIVE}

_log = logs.logger("events")


class Healing:
    """heal: until nothing is missing, as of when it began."""

    def __init__(
        self,
        transmitter: Transmitter,
        store: EventStore,
        intake: Intake,
        polling: Polling,
        memory: Memory,
        watch: Watch,
        clock: Clock,
    ) -> None:
        self._transmitter = transmitter
        self._store = store
        self._intake = intake
        self._polling = polling
        self._memory = memory
        self._watch = watch
        self._clock = clock

    async def heal(self, *, must_list: bool) -> None:
        """must_list: also where the chain is whole, because the service has not told lately up to where it goes.

        Raises the transmitter's faults, KeysUnavailable, StoreDown, MemoryFull: try again later."""
        await self._poll()
        if must_list or self._intake.settle() is not Standing.WHOLE:
            await self._list()
        self._watch.asked(self._clock.boot())
        self._intake.settle()

    async def _poll(self) -> None:
        if self._store.streams.poll_url:
            await self._polling.drain(self._store.streams.poll_url)
            await self._intake.apply_due()

    async def _list(self) -> None:
        asked_at = self._clock.boot()
        anew, before = self._store.anew, self._store.chain.last_seq
        try:
            as_of, way = await self._read_changes(anew), "changes"
        except TooOld:
            as_of, way = await self._read_snapshot(anew), "snapshot"
            await self._poll()  # what happened while it was read
        self._watch.is_restored = False
        self._watch.told(as_of, asked_at)  # true at some moment after we asked, which is all that may be claimed
        await self._intake.apply_due()  # events that were held until what lies before them was known
        _log.info("events_listed", by=way, after=before, as_of=as_of)

    async def _read_changes(self, anew: int) -> int:
        after = self._store.chain.last_seq
        if not self._store.incarnation and self._store.chain.newest:
            raise TooOld("whether what was heard before is of this ledger cannot be told by its place")
        while True:
            changes = await self._transmitter.changes(after, self._store.incarnation)
            self._apply(changes.consents, changes.parties)
            listed = [*(line.seq for line in changes.consents), *(line.seq for line in changes.parties)]
            after = max([after, *listed]) if changes.more else max(after, changes.as_of_seq)
            await self._intake.on_disk(self._store.known_to, after, changes.incarnation, anew)
            if not (changes.more and listed):  # a page that brings nothing is the last one, whatever it says
                return after

    async def _read_snapshot(self, anew: int) -> int:
        for left in reversed(range(TRIES)):
            try:
                return await self._read_pages(anew)
            except TooOld:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _read_pages(self, anew: int) -> int:
        cursor: str | None = None
        while True:
            page = await self._transmitter.snapshot(cursor)
            self._apply(page.consents, page.parties)
            if page.cursor is None:
                await self._intake.on_disk(self._store.known_to, page.as_of_seq, page.incarnation, anew)
                return page.as_of_seq
            cursor = page.cursor

    def _apply(self, consents: Sequence[ListedConsent], parties: Sequence[ListedParty]) -> None:
        """As events would be: any order, any number of times."""
        if unknown := {consent.state for consent in consents} - _KNOWN:
            _log.error("listed_state_unknown", states=sorted(unknown))  # this release does not know it
        with self._memory.together():
            for consent in consents:
                _apply_consent(consent, self._memory)
            for party in parties:
                self._memory.suspend(party.client_id, party.party_version, suspended=party.suspended)


def _apply_consent(consent: ListedConsent, memory: Memory) -> None:
    if consent.state in _ENDED:
        memory.end(consent.consent_id, consent.consent_version, consent.effective_at)
    else:  # in a state that is neither, it may come back, and until then nothing is left of what an answer showed
        details = consent.authorization_details if consent.state == _ACTIVE else ()
        change_consent(memory, consent.consent_id, consent.consent_version, details, consent.expires_at)
