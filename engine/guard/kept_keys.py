"""The issuer's answer keys on disk, so that a guard that restarts while the issuer is away can read signed answers.

One sealed file beside the guard's memory: whoever does not hold the guard's key can neither make one nor change one. An
older copy that is put back is good for as long as it would have been then, and no set is taken that is a day old: that
is how long an outage may last. What is newly fetched replaces it, and is asked for first at each start.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from engine.clock import Seconds, UnixTime
from engine.guard.anchor import sync_directory
from engine.guard.config import Store
from engine.guard.sealing import Place, Sort, StoreKey, Unsealed
from engine.telemetry.logs import logger
from engine.tokens.keys import MAX_SET_BYTES

FILE: Final = "answer-keys"
USE: Final = "answer-keys"  # of the key
LONGEST: Final = Seconds(86_400.0)  # from its fetching
CLOCK_ERROR: Final = Seconds(60.0)  # by which a clock may have been set back since
_PLACE: Final = Place(b"answer-keys", 0, 0)

_log = logger("guard.keys")


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """Stored: a new field goes to the end and has a default."""

    fetched_at: UnixTime
    raw: bytes


class KeyShelf(Protocol):
    """Where a key set outlives the process."""

    def load(self) -> bytes | None:
        """The newest set, as it was published; None: there is none that may be used."""

    def keep(self, raw: bytes) -> None:
        """A set was fetched now. Where it cannot be kept, that is logged and changes nothing."""


class NoShelf:
    """Nothing is kept."""

    def load(self) -> bytes | None:
        """See KeyShelf."""
        return None

    def keep(self, raw: bytes) -> None:
        """See KeyShelf."""


class KeptKeys:
    """`KeyShelf` in the store's directory. wall: seconds since 1970."""

    def __init__(self, settings: Store, owner: str, wall: Callable[[], UnixTime]) -> None:
        """owner: the EDP's `client_id`. What the store's previous key has sealed is sealed anew. Raises BadConfig."""
        self._path = settings.directory / FILE
        self._key = StoreKey.from_file(settings.key_file, owner, USE)
        old = settings.previous_key_file
        self._previous = None if old is None else StoreKey.from_file(old, owner, USE)
        self._wall = wall
        if self._previous is not None:
            self.load()  # whether or not this process ever needs it: the next one does not have that key

    def load(self) -> bytes | None:
        """See KeyShelf. What was not sealed here, or is too old or from the future, is none."""
        try:
            with self._path.open("rb") as file:
                sealed = file.read(2 * MAX_SET_BYTES)
            kept = msgspec.msgpack.decode(self._opened(sealed), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, Unsealed, msgspec.MsgspecError) as error:
            _log.warning("guard_kept_keys_unusable", file=str(self._path), why=str(error))
            return None
        age = self._wall() - kept.fetched_at
        return kept.raw if -CLOCK_ERROR <= age < LONGEST else None

    def keep(self, raw: bytes) -> None:
        """See KeyShelf. All of it or what was there before, whenever the process is killed."""
        self._write(msgspec.msgpack.encode(_Kept(self._wall(), raw)))

    def _opened(self, sealed: bytes) -> bytes:
        """What was kept. Raises Unsealed."""
        try:
            return self._key.open(Sort.KEYS, _PLACE, sealed)
        except Unsealed:
            if self._previous is None:
                raise
            plain = self._previous.open(Sort.KEYS, _PLACE, sealed)
        self._write(plain)  # as it is: it says when it was fetched
        return plain

    def _write(self, plain: bytes) -> None:
        try:
            _replace(self._path, self._key.seal(Sort.KEYS, _PLACE, plain))
        except OSError as error:
            _log.warning("guard_keys_not_kept", file=str(self._path), why=str(error))


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_directory(path.parent)
