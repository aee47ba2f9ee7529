"""The ledger's PostgreSQL as a process to be killed: a real server of our own, with fsync on."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.chaos.processes import LOOK_EVERY
from tests.support.postgres import PostgresServer, unpack


class Postgres:
    """The same face as `Process`. The server runs before the rest starts, and ends after it."""

    name = "postgres"
    pid = 0  # it is killed with its children, by its own means

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._due: float | None = None
        self.alive = True
        self.ended_by_itself: list[str] = []

    def start(self) -> None:
        """It runs already."""

    def kill(self, away: float, _before: Callable[[], None] | None = None) -> None:
        """As if the power had gone."""
        if self.alive:
            self.alive = False
            self._server.crash()
            self._due = trio.current_time() + away

    def send(self, _number: signal.Signals) -> None:
        """It is only killed as a whole."""

    async def keep(self) -> None:
        """Start it again after each crash."""
        while True:
            await trio.sleep(LOOK_EVERY)
            if self._due is not None and trio.current_time() >= self._due:
                self._due = None
                await trio.to_thread.run_sync(self._server.start)
                self.alive = True

    def stop(self) -> None:
        """It ends last, with the block that it was made in."""


@contextmanager
def own_server() -> Iterator[tuple[str, Postgres]]:
    """A server with an empty database: its URL, and itself."""
    with tempfile.TemporaryDirectory(prefix="ccs-pg-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        server = unpack(directory)
        server.start()
        try:
            yield server.new_database(), Postgres(server)
        finally:
            server.stop()
