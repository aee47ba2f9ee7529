"""When an outage began that has not ended, in a sealed file beside the evidence: damage to one leaves the other.

An outage that a restart forgets would have its cap counted anew. Written before the evidence says that an outage has
begun, and after it says that it has ended, so that a crash in between makes an outage longer and never shorter.
"""

import os
from typing import Final

import msgspec

from engine.guard.anchor import sync_directory
from engine.guard.config import Store
from engine.guard.sealing import Place, Sort, StoreKey, Unsealed
from engine.telemetry.logs import logger

FILE: Final = "open-outage"
USE: Final = "open-outage"  # of the key
_PLACE: Final = Place(b"open-outage", 0, 0)
_MOST: Final = 4_096  # bytes

_log = logger("guard.evidence")


class OpenOutage:
    """One file in the store's directory."""

    def __init__(self, settings: Store, owner: str) -> None:
        """owner: the EDP's `client_id`. Raises BadConfig."""
        self._path = settings.directory / FILE
        files = (settings.key_file, settings.previous_key_file)
        self._keys = [StoreKey.from_file(file, owner, USE) for file in files if file is not None]

    def load(self) -> float | None:
        """When the outage began, seconds since 1970; None: there is none, or what stands there was not sealed here."""
        try:
            with self._path.open("rb") as file:
                sealed = file.read(_MOST)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.error("guard_open_outage_unreadable", file=str(self._path), why=str(error))
            return None
        for key in self._keys:
            try:
                return msgspec.msgpack.decode(key.open(Sort.OUTAGE, _PLACE, sealed), type=float | None)
            except (Unsealed, msgspec.MsgspecError):
                continue
        _log.error("guard_open_outage_unreadable", file=str(self._path), why="it was not sealed here")
        return None

    def settle(self, began_at: float | None) -> None:
        """What the evidence says at a start: it is the one to know, where it can be read. Under the newest key, too."""
        if began_at is not None or self._path.exists():
            self.keep(began_at)

    def keep(self, began_at: float | None) -> None:
        """None: there is none any more. Where it cannot be kept, that is logged: the evidence says it all the same."""
        sealed = self._keys[0].seal(Sort.OUTAGE, _PLACE, msgspec.msgpack.encode(began_at))
        new = self._path.with_name(f"{FILE}.new")
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            _log.warning("guard_open_outage_not_kept", file=str(self._path), why=str(error))
