"""How often a pusher has its key published anew."""

from typing import cast

import trio
from trio.testing import MockClock

from engine.clock import UnixTime
from engine.events.signing import EventSigner
from engine.pusher.event_keys import EventKeys


class Public:
    """The half that is published."""

    kid = "k"


class Key:
    """A key whose statements are never looked at."""

    public = Public()

    def sign_key_statement(self, _pusher_id: str, _issuer: str, at: UnixTime) -> bytes:
        return b"%d" % at


class Registrar:
    """Keeps when it was asked."""

    def __init__(self) -> None:
        self.at: list[float] = []

    async def register_event_key(self, _statement: bytes) -> tuple[str, int]:
        self.at.append(trio.current_time())
        return "k", 2_000_000_000


async def test_a_key_is_registered_twice_a_day(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time that jumps
    """Once a day, and a minute until that is noticed, would be more than the day that receivers are promised."""
    registrar, start = Registrar(), trio.current_time()
    keys = EventKeys(
        [cast("EventSigner", Key())],
        registrar,
        pusher_id="pusher-1",
        issuer="https://ccs.example",
        wall=trio.current_time,
        jitter=lambda: 0.0,
    )
    with trio.move_on_after(86_400):
        await keys.run()
    gaps = [later - earlier for earlier, later in zip(registrar.at, registrar.at[1:], strict=False)]
    assert registrar.at[0] == start
    assert gaps
    assert all(gap <= 43_200 + 60 for gap in gaps)
