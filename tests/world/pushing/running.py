"""Seeds of this world, alone or many of them: see `tests.world.seeds`."""

from collections.abc import Iterator, Sequence

from tests.world.pushing.mistakes import MISTAKES
from tests.world.pushing.world import Played, play
from tests.world.seeds import Job, play_all, play_alone


def run(seed: int, mistake: str = "") -> Played:
    """One seed, in this process."""
    return play_alone("pushing", play, seed, MISTAKES[mistake] if mistake else None)


def run_all(jobs: Sequence[Job], processes: int = 0) -> Iterator[Played]:
    """What comes of each, without its story. processes: 0 = one a core."""
    return play_all(run, jobs, processes)
