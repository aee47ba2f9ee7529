"""A feeder for benches: the replica stands still, but stays `current`, as it does on a node whose feed is silent.

It does to the replica what the real feeder does when nothing happens: a new bound ten times a second, in a transaction
of its own. Benches of the whole way, with a real feeder, Redis and admin, are `bench.effect` and `bench.million`.
"""

from pathlib import Path
from typing import Final

import msgspec
import trio

from engine.clock import BootTime, Seconds
from engine.decision.freshness import MAX_SILENCE
from engine.node.process import Process, end_with
from engine.replica.store import ReplicaStore
from engine.telemetry.host import SystemClock, boot_id

ASK_EVERY: Final = Seconds(0.1)


def _place(directory: Path) -> str:
    """Under which name bounds are believed; a revision without `replica.place` knows them by the boot alone."""
    try:
        from engine.replica.place import place_of
    except ImportError:
        return boot_id()
    return place_of(directory, boot_id())


async def work(process: Process) -> None:
    """Keep the replica current until drained."""
    config, clock = process.order.config, SystemClock()
    place = _place(config.replica.directory)
    store = ReplicaStore(config.replica.directory, map_size=config.replica.map_size, boot_id=place)
    try:
        process.ready()
        while not process.draining.is_set():
            if store.bound is not None:
                until, now = BootTime(clock.boot() + MAX_SILENCE), clock.now()
                store.apply([], msgspec.structs.replace(store.bound, boot_id=place, fresh_until=until, as_of=now))
            with trio.move_on_after(ASK_EVERY):
                await process.draining.wait()
    finally:
        store.close()


if __name__ == "__main__":
    end_with(work)
