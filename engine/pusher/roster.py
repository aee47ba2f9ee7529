"""Who there is to push to: follows the roster, and keeps one supervised actor for each receiver."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final

import trio

from engine.actors.supervisor import Patience, Supervision
from engine.backoff import Backoff
from engine.clock import Seconds
from engine.consent.records import ClientId
from engine.pusher.calls import until_answered
from engine.pusher.receiver import ReceiverActor
from engine.pusher.service import Checkpoint, Delivery, PushService, Receiver, Roster
from engine.pusher.tools import Tools
from engine.telemetry import logs

ANEW: Final = Seconds(60.0)  # the newest positions and checkpoint come with a whole roster only
# One receiver's failures are never the pusher's end.
PATIENCE: Final = Patience(Backoff(first=Seconds(0.5), limit=Seconds(60.0)), before_ready=None, after_ready=None)

_log = logs.logger("pusher")


class _Life:
    """One actor, its keeper, and what ends both."""

    def __init__(self, actor: ReceiverActor) -> None:
        self.actor = actor
        self.supervision = Supervision(f"receiver {actor.client_id}", actor.run, PATIENCE)
        self.scope = trio.CancelScope()

    async def live(self) -> None:
        with self.scope:
            await self.supervision.run()


class Actors:
    """All receivers of a tenure. nursery: their lives are in it."""

    def __init__(self, service: PushService, tools: Tools, nursery: trio.Nursery) -> None:
        self._service = service
        self._tools = tools
        self._nursery = nursery
        self._lives: dict[ClientId, _Life] = {}
        self._known = trio.Event()
        self.checkpoint: Checkpoint | None = None

    async def follow(self, wait: Seconds) -> None:
        """Follow the roster for ever."""
        version = 0
        read_at = trio.current_time()
        while True:
            roster = await until_answered("roster", partial(self._service.roster, version, wait))
            if roster is None and trio.current_time() - read_at >= ANEW:
                roster = await until_answered("roster", partial(self._service.roster, 0, Seconds(0.0)))
            if roster is not None:
                self._take(roster, first=version == 0)
                version, read_at = roster.version, trio.current_time()

    def _take(self, roster: Roster, *, first: bool) -> None:
        self.checkpoint = roster.checkpoint
        present = {receiver.client_id: receiver for receiver in roster.receivers}
        for client_id in [known for known in self._lives if known not in present]:
            self._lives.pop(client_id).scope.cancel()
            self._tools.outward.forget(client_id)
        for client_id, receiver in present.items():
            self._meet(client_id, receiver, owed=not first)
        self._known.set()

    def _meet(self, client_id: ClientId, receiver: Receiver, *, owed: bool) -> None:
        life = self._lives.get(client_id)
        if life is not None:
            life.actor.change(receiver)
            return
        life = self._lives[client_id] = _Life(ReceiverActor(receiver, self._tools, owed=owed))
        self._nursery.start_soon(life.live)

    async def wait_known(self) -> None:
        """Until a roster has come."""
        await self._known.wait()

    def arrived(self, page: Iterable[Delivery]) -> None:
        """Hand deliveries to whom they are for. Of somebody not known yet: read when it is."""
        by_client: dict[ClientId, list[Delivery]] = {}
        for delivery in page:
            by_client.setdefault(delivery.client_id, []).append(delivery)
        for client_id, deliveries in by_client.items():
            life = self._lives.get(client_id)
            if life is not None:
                life.actor.arrived(deliveries)

    def drain(self) -> None:
        """Begin nothing more."""
        for actor in self:
            actor.drain()

    @property
    def are_idle(self) -> bool:
        """Whether nothing is under way."""
        return all(actor.is_idle for actor in self)

    def restarts(self) -> Mapping[ClientId, int]:
        """Of the actors that failed."""
        lives = self._lives.items()
        return {name: count for name, life in lives if (count := life.supervision.statistics().restarts)}

    def __iter__(self) -> Iterator[ReceiverActor]:
        """The actors."""
        return (life.actor for life in list(self._lives.values()))
