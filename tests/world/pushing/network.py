"""The way from pushers to receivers: it drops, delays, doubles and reorders; and who may use it is looked at."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from engine.consent.records import ClientId
from engine.listener.http1 import Response
from engine.pusher.connections import Unreached
from engine.pusher.schedule import Reply, Trouble
from engine.pusher.targets import Target

if TYPE_CHECKING:
    from tests.world.pushing.pushers import PusherMachine
    from tests.world.pushing.world import World

WHOLE: Final = 5.0  # seconds, as the real way out


class Answering:
    """What a receiver answers, once it does."""

    def __init__(self) -> None:
        self.came = trio.Event()
        self.response = Response(0, b"")

    def answer(self, response: Response) -> None:
        self.response = response
        self.came.set()


class Network:
    """`engine.pusher.tools.Outward` of one pusher."""

    def __init__(self, world: "World", pusher: "PusherMachine") -> None:
        self._world = world
        self._pusher = pusher

    async def push(
        self, client_id: ClientId, target: Target, content: bytes, *, begun: Callable[[], None] = lambda: None
    ) -> Reply:
        """One attempt. Raises Unreached."""
        begun()
        world, answering = self._world, Answering()
        assert target.host == f"{client_id}.example"
        world.checker.pushes(self._pusher.name, self._pusher.epoch, client_id, content)
        if world.chance("push dropped", 0.3 if world.dropping else 0.08):
            await trio.sleep(world.random.choice((0.01, WHOLE)))
            raise Unreached(Trouble.TIMEOUT)
        late = world.random.uniform(1.0, 25.0) if world.chance("push delayed", 0.06) else 0.0
        world.start(self._arrive, client_id, content, answering, late)
        if world.chance("push doubled", 0.08):
            world.start(self._arrive, client_id, content, Answering(), world.random.uniform(0.0, 40.0))
        with trio.move_on_after(WHOLE):
            await answering.came.wait()
            if not world.chance("push answer lost", 0.05):
                return _reply(answering.response)
            await trio.sleep_forever()
        raise Unreached(Trouble.TIMEOUT)

    def forget(self, client_id: ClientId) -> None:
        """No connections are kept."""

    async def _arrive(self, client_id: ClientId, content: bytes, answering: Answering, late: float) -> None:
        world = self._world
        world.attacker.saw(client_id, content)
        await trio.sleep(late + world.latency * (1 + world.random.random()))
        machine = world.guards.get(client_id)
        if machine is None:
            world.checker.atp_takes(client_id, content)
            answering.answer(Response(202, b""))
        elif not world.receivers_down:
            machine.receive(content, answering)


def _reply(response: Response) -> Reply:
    err = ""
    if response.status == 400:
        err = msgspec.json.decode(response.body)["err"]
    return Reply(response.status, err)
