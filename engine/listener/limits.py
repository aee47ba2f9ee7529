"""What one server bears: sizes, numbers and waits. Everything that a peer could stretch has its end here."""

import msgspec

from engine.clock import Seconds
from engine.listener.http1 import HeadLimits


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Waits in seconds; drain_timeout bounds the whole drain.

    shed_after: whose turn comes when a round of the loop has worked this long already is told to come back later.
    max_waiting: requests whose handlers wait for something, before more of them are told so.
    """

    http: HeadLimits = HeadLimits()
    max_connections: int = 10_000
    idle_timeout: Seconds = Seconds(75.0)
    request_timeout: Seconds = Seconds(10.0)
    handshake_timeout: Seconds = Seconds(10.0)
    drain_timeout: Seconds = Seconds(10.0)
    shed_after: Seconds = Seconds(0.25)
    max_waiting: int = 1_000
