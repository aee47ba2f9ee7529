"""Seeds of this world, alone or many of them."""

from typing import Final

from tests.world.seeds import Worlds
from tests.world.simulation.mistakes import MISTAKES
from tests.world.simulation.template import template
from tests.world.simulation.world import play

WORLDS: Final = Worlds(__name__, play, MISTAKES, template)
