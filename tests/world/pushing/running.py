"""Many seeds on several processes, with or without a mistake; what came of each is handed on in order."""

import functools
import gc
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from tests.world.pushing.mistakes import MISTAKES
from tests.world.pushing.world import Played, play
from tests.world.simulation.mistake import made

MEMORY = Path("/dev/shm")  # noqa: S108 - for a folder of our own: files there cost no disk
CHUNK = 4  # seeds a visit to a process

Job = tuple[int, str]  # a seed, and the name of a mistake or ""


def run(seed: int, mistake: str = "") -> Played:
    """One seed, in this process."""
    directory = Path(tempfile.mkdtemp(prefix="ccs-pushing-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        with _quietly(), made(MISTAKES[mistake] if mistake else None):
            return play(seed, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_all(jobs: Sequence[Job], processes: int = 0) -> Iterator[Played]:
    """What comes of each, without its story. processes: 0 = one a core."""
    count = processes or os.cpu_count() or 1
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(_run_job, jobs, chunksize=CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)


def _run_job(job: Job) -> Played:
    return msgspec.structs.replace(run(*job), story=())


@contextmanager
def _quietly() -> Iterator[None]:
    """No log lines, and no looking for garbage: a world is thrown away as a whole."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # CRITICAL: we write none
    _set_aside()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        structlog.configure(**before)


@functools.cache
def _set_aside() -> None:
    """What is there before the first world stays, and is not looked through after each."""
    gc.collect()
    gc.freeze()
