"""How often a pusher has its key published anew."""

from itertools import pairwise
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from engine.clock import UnixTime
from engine.errors import Fault, Kind
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


class Picky(Registrar):
    """Refuses the newest key, as one that is another pusher's."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[bytes, float]] = []

    async def register_event_key(self, statement: bytes) -> tuple[str, int]:
        if statement.startswith(b"newest"):
            raise KeyOfAnother("this key is registered for another pusher")
        self.taken.append((statement, trio.current_time()))
        return statement.decode(), 2_000_000_000


class KeyOfAnother(Fault):
    """As the service says it."""

    kind = Kind.CONFLICT


def named(name: str) -> EventSigner:
    class Named:
        public = type("Public", (), {"kid": name})()

        def sign_key_statement(self, _pusher_id: str, _issuer: str, _at: UnixTime) -> bytes:
            return name.encode()

    return cast("EventSigner", Named())


@pytest.mark.parametrize("from_the_start", [True, False])
async def test_the_key_in_use_stays_published_while_a_newer_one_is_refused(
    autojump_clock: MockClock,  # noqa: ARG001 - time that jumps
    from_the_start: bool,
) -> None:
    """A key that nobody publishes any more signs events that every receiver refuses."""
    registrar = Picky()
    newest, older = named("newest"), named("older")
    keys = EventKeys(
        [newest, older] if from_the_start else [older],
        registrar,
        pusher_id="pusher-1",
        issuer="https://ccs.example",
        wall=trio.current_time,
        jitter=lambda: 0.0,
    )
    with trio.move_on_after(4 * 86_400):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keys.run)
            await keys.wait_ready()
            keys.change([newest, older])
            await trio.sleep_forever()
    assert keys.signer() is older
    times = [at for statement, at in registrar.taken if statement == b"older"]
    assert len(times) >= 7
    assert all(later - earlier <= 43_200 + 120 for earlier, later in pairwise(times))
