"""Seeds of this world, alone or many of them: see `tests.world.seeds`."""

from collections.abc import Iterator, Sequence

from tests.world.seeds import Job, play_all, play_alone
from tests.world.simulation.mistakes import MISTAKES
from tests.world.simulation.template import template
from tests.world.simulation.world import Played, play


def run(seed: int, mistake: str = "") -> Played:
    """One seed, in this process."""
    return play_alone("simulation", play, seed, MISTAKES[mistake] if mistake else None, template)


def run_all(jobs: Sequence[Job], processes: int = 0) -> Iterator[Played]:
    """What comes of each, without its story. processes: 0 = one a core."""
    return play_all(run, jobs, processes)
