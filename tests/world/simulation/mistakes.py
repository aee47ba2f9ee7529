"""All deliberate mistakes, by their names. The checker must find each of them.

`python -m tests.world.simulation --mistakes` measures in what share of the seeds it does, and with `--keep` writes the
tables of decision 0021 anew.
"""

from tests.world.simulation.code_mistakes import OWN
from tests.world.simulation.protocol_mistakes import MODEL

MISTAKES = {mistake.name: mistake for mistake in (*MODEL, *OWN)}
