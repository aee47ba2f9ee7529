"""A receiver's heartbeat: a verification event each minute, made in memory: how far the receiver should be by now."""

from collections.abc import Callable, Iterable

import trio

from engine.pusher.connections import Unreached
from engine.pusher.destination import Destination
from engine.pusher.schedule import Reply, Trouble
from engine.pusher.service import Delivery
from engine.pusher.streams import StreamStatus
from engine.pusher.tools import Tools
from engine.telemetry import pusher_metrics


class Heartbeat:
    """beaten: hears what came of each."""

    def __init__(self, destination: Destination, tools: Tools, beaten: Callable[[Reply | Trouble], None]) -> None:
        self._destination = destination
        self._tools = tools
        self._beaten = beaten
        self._stopped = False
        self._newest_seq = 0

    def saw(self, deliveries: Iterable[Delivery]) -> None:
        """These came for the receiver since it was read; what comes by another lane may be older."""
        self._newest_seq = max([self._newest_seq, *(one.seq for one in deliveries)])

    def stop(self) -> None:
        """Begin none any more."""
        self._stopped = True

    async def run(self) -> None:
        """For ever."""
        tools = self._tools
        await trio.sleep(tools.jitter() * tools.heartbeat_every)
        while True:
            if not self._stopped and tools.tenure.holds():
                await self._beat()
            await trio.sleep(tools.heartbeat_every)

    async def _beat(self) -> None:
        stream, target = self._destination.stream, self._destination.target
        if stream is None or target is None or not stream.is_usable or stream.status is not StreamStatus.ENABLED:
            return
        receiver = self._destination.receiver
        client_id, last_seq = receiver.client_id, max(receiver.last_seq, self._newest_seq)
        result: Reply | Trouble
        try:
            content = self._tools.heartbeat(stream, client_id, last_seq)
            result = await self._tools.outward.push(client_id, target, content)
            word = "taken" if result.status in (200, 202, 204) else f"http_{result.status // 100}xx"
        except Unreached as fault:
            result, word = fault.trouble, fault.trouble.value
            self._tools.alarms.unreached(client_id, fault.trouble, fault.detail)
        pusher_metrics.HEARTBEATS.labels(word).inc()
        self._beaten(result)
