"""Seeds of this world, alone or many of them."""

from typing import Final

from tests.world.pushing.mistakes import MISTAKES
from tests.world.pushing.world import play
from tests.world.seeds import Worlds

WORLDS: Final = Worlds(__name__, play, MISTAKES)
