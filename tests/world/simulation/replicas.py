"""A machine's replica files as its processes see them: written by one, read by others, outliving all of them.

LMDB opens a file once in a process, and here all processes are one. So readers get the writer's handle; it stays open
as a mapped file would, until the next writer opens the file anew.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine.consent.records import ConsentKey, ConsentRecord
from engine.consent.states import ENDED
from engine.decision.freshness import Bound
from engine.feed.entries import Entry, EntryKind
from engine.replica import generations
from engine.replica.environment import Environment, ReplicaUnreadable
from engine.replica.layout import STAMP_BYTES
from engine.replica.reader import Moment, Replica, View, _Opened
from engine.replica.store import Generation, ReplicaStore

if TYPE_CHECKING:
    from tests.world.simulation.nodes import Machine

MAP_SIZE = 1 << 22

_consent = msgspec.msgpack.Decoder(ConsentRecord).decode


class Files:
    """What is open on one machine, and which ends its replica has ever known."""

    def __init__(self, directory: Path, now: Callable[[], float]) -> None:
        self.directory, self._now = directory, now
        self.open: dict[str, Environment] = {}  # by the generation's name
        self.readers: list[SharedReplica] = []
        self.heard: dict[ConsentKey, float] = {}  # since when

    def close(self) -> None:
        """Before the next writer opens the files; readers come back by themselves."""
        for reader in self.readers:
            reader.drop()
        for environment in self.open.values():
            environment.lmdb.close()
        self.open.clear()

    def hear(self, entries: Sequence[Entry]) -> None:
        """Entries were applied."""
        for entry in entries:
            if entry.kind is EntryKind.CONSENT and _consent(entry.record).state in ENDED:
                self.heard.setdefault(ConsentKey(entry.key), self._now())

    def hear_all(self, environment: Environment) -> None:
        """A snapshot was adopted."""
        with environment.lmdb.begin() as txn:
            for key, value in txn.cursor(environment.consents):
                if _consent(value[STAMP_BYTES:]).state in ENDED:
                    self.heard.setdefault(ConsentKey(key), self._now())


class WatchedStore(ReplicaStore):
    """The real writer, on a machine whose files are watched."""

    def __init__(self, machine: "Machine") -> None:
        self._machine, self._files = machine, machine.files
        super().__init__(machine.files.directory, map_size=MAP_SIZE, boot_id=machine.boot_id)
        if self._generation is None:
            self._files.heard.clear()  # a machine that lost its file has forgotten
        else:
            self._keep(self._generation)

    def apply(self, entries: Sequence[Entry], bound: Bound) -> None:
        super().apply(entries, bound)
        self._files.hear(entries)

    def begin_generation(self) -> Generation:
        self._machine.note_snapshot()
        generation = super().begin_generation()
        self._keep(generation)
        return generation

    def adopt(self, generation: Generation) -> None:
        super().adopt(generation)
        self._files.hear_all(generation.environment)

    def let_go(self) -> None:
        """What the kernel does for a writer that was killed."""
        self._lock.release()

    def _keep(self, generation: Generation) -> None:
        self._files.open[generation.path.name] = generation.environment
        generation.close = functools.partial(_close_for_writer, generation)  # type: ignore[method-assign] # readers stay


def _close_for_writer(generation: Generation, *, clean: bool) -> None:
    if clean:
        generation.environment.lmdb.sync(True)  # noqa: FBT003 - LMDB's own signature: force
        generations.mark_clean(generation.path)


class SharedReplica(Replica):
    """The real reader, on the writer's handles. point: told where a process might be stopped."""

    def __init__(self, machine: "Machine") -> None:
        self._files = machine.files
        self._point = machine.point
        self._last: Any = None
        super().__init__(machine.files.directory, map_size=MAP_SIZE, monotonic=machine.clock.boot)
        self._files.readers.append(self)

    def transaction(self) -> View:
        self._point()
        view = self._last = super().transaction()
        return view

    def moment(self) -> Moment:
        self._point()
        moment = self._last = super().moment()
        return moment

    @property
    def last_moment(self) -> Moment:
        """What the last transaction found."""
        moment: Moment = getattr(self._last, "moment", self._last)
        return moment

    def drop(self) -> None:
        self._opened = None

    def _open(self, name: str) -> _Opened:
        if name not in self._files.open:
            raise ReplicaUnreadable("nobody has this file open")
        return _Opened(self._files.open[name])

    def _close(self) -> None:
        self.drop()


def place_of(bound: Bound) -> str:
    """For the story: the incarnation's last digits, and the position."""
    return f"{bound.incarnation[-2:]}:{bound.applied}"


def clone(source: Files, directory: Path, now: Callable[[], float]) -> Files:
    """A copy of a machine's disk, as an image of a machine that was shut down has it."""
    files = Files(directory, now)
    name = generations.current_name(source.directory)
    if name is not None and name in source.open:
        path = directory / name
        path.mkdir(parents=True)
        source.open[name].lmdb.copy(str(path))
        generations.mark_clean(path)
        (directory / generations.CURRENT).symlink_to(name)
        files.heard = dict(source.heard)
    return files
