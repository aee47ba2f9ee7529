"""What came of a guard's calls to each node, as it went over the wire, and what must not follow from it.

An outage is that every node failed by transport, timeout or 5xx; nothing else is one. And a `last_known` answer is
taken only where no other node has a better one.
"""

from typing import TYPE_CHECKING, Final

from engine.consent.records import ClientId
from engine.guard.evidence_words import Failure
from engine.guard.shares import Reason, Verdict

if TYPE_CHECKING:
    from tests.world.pushing.world import World

COUNTING: Final = frozenset({Failure.CONNECT, Failure.TIMEOUT, Failure.RESET, Failure.SERVER})
LATELY: Final = 63.0  # seconds: a failure counts for a minute, and a call that hangs is given up after two seconds
READ: Final = 1.0  # seconds after which a guard has read what was answered
SLOW: Final = 3.0  # seconds after which a guard has given up a call that is slow
NEVER: Final = float("-inf")


class Contacts:
    """Tells the world what is wrong. signing: EDPs whose guard finds fault with sound answers while it has no key."""

    def __init__(self, world: "World", signing: tuple[ClientId, ...]) -> None:
        self._world = world
        self._signing = signing
        self._failed_at: dict[tuple[ClientId, str], float] = {}  # the last time that counts
        self._well_since: dict[tuple[ClientId, str], float] = {}  # it has said what is true, and not failed since
        self._unsure_until: dict[tuple[ClientId, str], float] = {}  # a call that began before may fail yet

    def fails(self, client_id: ClientId, address: str, failure: Failure) -> None:
        """A guard's call fails, or may."""
        self._well_since.pop((client_id, address), None)
        if failure is Failure.TIMEOUT:
            self._unsure_until[client_id, address] = self._world.now() + SLOW
        if failure in COUNTING:
            self._failed_at[client_id, address] = self._world.now()

    def answers(self, client_id: ClientId, address: str, *, is_current: bool) -> None:
        """A guard hears a sound answer."""
        now = self._world.now()
        if is_current and now >= self._unsure_until.get((client_id, address), NEVER):
            self._well_since.setdefault((client_id, address), now)
        else:
            self._well_since.pop((client_id, address), None)

    def outage_begins(self, client_id: ClientId) -> None:
        """A guard writes down that there is one."""
        since = self._world.now() - LATELY
        for address in self._world.nodes:
            if self._failed_at.get((client_id, address), NEVER) < since:
                self._world.wrong(client_id, "P6: an outage although a node has not failed so", address)

    def judged(self, client_id: ClientId, verdict: Verdict, began: float) -> None:
        """A guard's verdict on a share. began: when it was asked for."""
        if verdict.reason is not Reason.CONSENTED or verdict.freshness == "current" or client_id in self._signing:
            return
        for address in self._world.nodes:
            if self._well_since.get((client_id, address), began) <= began - READ:
                self._world.wrong(client_id, "P6: takes a last_known answer although a node has a better one", address)
