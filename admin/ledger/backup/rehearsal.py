"""Tries a restore without keeping it: into a file of its own that is removed, timed, with the result written down."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from admin.ledger.backup.filling import Keys, Progress, Restored
from admin.ledger.backup.place import Place
from admin.ledger.backup.record import Record, RehearsedNote
from admin.ledger.backup.restoring import choose, restore
from admin.ledger.database import Database
from admin.ledger.store import LedgerUnavailable
from engine.errors import Fault


class Rehearsal:
    """One try. wall: seconds since 1970; monotonic: any seconds that do not go back."""

    def __init__(
        self, place: Place, keys: Keys, record: Record | None, wall: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._place = place
        self._keys = keys
        self._record = record
        self._wall = wall
        self._monotonic = monotonic

    def run(self, scratch: Path | None, progress: Progress) -> tuple[Restored, RehearsedNote]:
        """Restore the newest backup below `scratch` (None: where temporary files go). Call in a thread.

        Raises as `choose`, `restore` and `Record.note_rehearsed`; what the first two raise is noted before.
        """
        began = self._monotonic()
        try:
            made = self._restore(scratch, progress)
        except Fault as fault:
            self._note(RehearsedNote(self._wall(), self._monotonic() - began, fault=fault.text))
            raise
        seconds = self._monotonic() - began
        note = RehearsedNote(self._wall(), seconds, made.backup, made.event.restored_seq, made.counts)
        self._note(note)
        return made, note

    def _restore(self, scratch: Path | None, progress: Progress) -> Restored:
        source = choose(self._place, record=self._record)
        with _folder(scratch) as folder:
            database = Database(f"sqlite:///{folder}/ledger.db")
            try:
                return restore(database, self._place, source, self._keys, self._wall(), progress=progress)
            finally:
                database.dispose()

    def _note(self, note: RehearsedNote) -> None:
        if self._record is not None:
            self._record.note_rehearsed(note)


@contextmanager
def _folder(scratch: Path | None) -> Iterator[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="ccs-rehearsal-", dir=scratch)
    except OSError as error:
        raise LedgerUnavailable(f"{scratch or tempfile.gettempdir()} cannot be written: {error.strerror}") from error
    with folder as name:
        yield name
