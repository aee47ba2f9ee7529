"""A guard's memory that survives kill -9: every writing call is a line in a file, on disk before it returns."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.clock import UnixTime
from tests.support.guard_memory import InMemory


class LoggedMemory(InMemory):
    """What it is told about events; answers are not kept."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        for line in path.read_text().splitlines() if path.exists() else ():
            name, args, named = json.loads(line)
            if name == "change" and args[2] is not None:
                args[2] = args[2].encode()
            getattr(InMemory, name)(self, *args, **named)
        self._path = path

    def end(self, consent_id: str, version: int, at: UnixTime) -> None:
        super().end(consent_id, version, at)
        self._log("end", consent_id, version, at)

    def change(self, consent_id: str, version: int, entry: bytes | None, expires_at: UnixTime | None) -> None:
        super().change(consent_id, version, entry, expires_at)
        self._log("change", consent_id, version, None if entry is None else entry.decode(), expires_at)

    def suspend(self, client_id: str, version: int, *, suspended: bool) -> None:
        super().suspend(client_id, version, suspended=suspended)
        self._log("suspend", client_id, version, suspended=suspended)

    def mark_missing(self, since: UnixTime) -> None:
        super().mark_missing(since)
        self._log("mark_missing", since)

    def mark_whole(self) -> None:
        super().mark_whole()
        self._log("mark_whole")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Line by line: less than is promised, and enough here."""
        yield

    def _log(self, name: str, *args: Any, **named: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([name, args, named]) + "\n")
            file.flush()
            os.fsync(file.fileno())
