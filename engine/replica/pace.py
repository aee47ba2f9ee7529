"""When a node turns to the feed over HTTPS, and how often it checks there. Pure: the jitter is passed in.

A thousand nodes lose Redis in one instant, and the feed service has a few processes for them. So each draws how long
it bears the silence, and each pause between two checks; when it dials Redis again is drawn by its links. What bounds
the drawing is the promise: the first check must have been answered before the bound, MAX_SILENCE after the last
question that Redis answered, has run out, with time left for a service that is slow because all come to it.
"""

from typing import Final

from engine.clock import Seconds

REDIS_PATIENCE: Final = Seconds(0.5)  # five questions unanswered; half of what is borne at most
CHECK_EVERY: Final = Seconds(0.8)  # in the middle; entries applied are reported at once all the same
LOOK_EVERY: Final = Seconds(0.05)


def patience(jitter: float) -> Seconds:
    """How long Redis may bring no answer that counts before HTTPS is asked: 0.5 to 1.0 s."""
    return Seconds(REDIS_PATIENCE * (1 + jitter))


def check_pause(jitter: float) -> Seconds:
    """From one check to the next: 0.6 to 1.0 s. A whole one may be lost before the bound runs out."""
    return Seconds(CHECK_EVERY * (0.75 + jitter / 2))
