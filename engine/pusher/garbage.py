"""When Python looks for garbage in a pusher's process: seldom, because pushes leave none.

At Python's own settings a fan-out to 200 receivers is a dozen rounds, and now and then one of them goes through
everything that was ever imported: tens of milliseconds in which nobody is pushed to.
"""

import gc
from typing import Final

# Containers that are there more than at the last round: one for a fan-out to a thousand receivers. What failed
# connections and an ended lease leave behind is in cycles: the last two let that be found within three leases.
THRESHOLDS: Final = (50_000, 5, 2)


def make_rounds_rare() -> None:
    """Once everything is imported and read: take what is there out of the rounds for good, and make rounds rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
