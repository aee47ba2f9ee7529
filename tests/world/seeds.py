"""Worlds that are played from seeds: one in this process, or many on several, with or without a mistake.

What came of each is handed on in order. Each world's own `running.py` says what is played.
"""

import functools
import gc
import importlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog

from tests.world.simulation.mistake import Mistake, made

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - for a folder of our own: files there cost no disk
CHUNK: Final = 4  # seeds a visit to a process

Job = tuple[int, str]  # a seed, and the name of a mistake or ""
P = TypeVar("P", bound=msgspec.Struct)  # what came of one; `story` is its longest field


class Worlds(Generic[P]):
    """Worlds that are played from seeds. module: the one that holds this as `WORLDS`, where other processes find it.

    prepare: makes what stays for all seeds.
    """

    def __init__(
        self,
        module: str,
        play: Callable[[int, Path], P],
        mistakes: Mapping[str, Mistake],
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._module = module
        self._play = play
        self._mistakes = mistakes
        self._prepare = prepare

    def run(self, seed: int, mistake: str = "") -> P:
        """One seed, in this process, with a folder that is gone afterwards."""
        directory = Path(tempfile.mkdtemp(prefix="ccs-world-", dir=MEMORY if MEMORY.is_dir() else None))
        try:
            self._prepare()
            with _without_logs(), _without_collector(), made(self._mistakes[mistake] if mistake else None):
                return self._play(seed, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def run_all(self, jobs: Sequence[Job], processes: int = 0) -> Iterator[P]:
        """What comes of each, without its story. processes: 0 = one a core."""
        count = processes or os.cpu_count() or 1
        pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
        try:
            yield from pool.map(functools.partial(_without_story, self._module), jobs, chunksize=CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def _without_story(module: str, job: Job) -> Any:
    played = importlib.import_module(module).WORLDS.run(*job)
    return msgspec.structs.replace(played, story=())


@contextmanager
def _without_collector() -> Iterator[None]:
    """A world is thrown away as a whole: to look for garbage in it again and again takes a fifth of the time."""
    _set_aside()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@functools.cache
def _set_aside() -> None:
    """What is there before the first world stays, and is not looked through after each."""
    gc.collect()
    gc.freeze()


@contextmanager
def _without_logs() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # CRITICAL: we write none
    try:
        yield
    finally:
        structlog.configure(**before)
