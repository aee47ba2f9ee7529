"""Who calls from outside: consumers who take consents back and give new ones, EDPs that ask about tokens."""

import hashlib
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import trio

from admin.ledger.barrier import LedgerReplaced
from admin.ledger.events import Act, Initiator, Route
from admin.ledger.store import Idempotency, LedgerUnavailable
from engine.clock import Seconds
from engine.consent.records import ClientId, ConsentId
from engine.errors import Fault, Kind
from engine.listener.http1 import Request
from engine.listener.introspection import PATH
from tests.support.consents import NOW
from tests.world.simulation.template import CONSENTS, EDPS, consent_id, granted, record_of
from tests.world.simulation.wires import Lost, call
from tests.world.simulation.workers import Asked
from tests.world.simulation.writes import Outcome, Write

if TYPE_CHECKING:
    from tests.world.simulation.admins import Admin, Done
    from tests.world.simulation.world import World

FORM = (b"content-type", b"application/x-www-form-urlencoded")
PATIENCE = Seconds(4.0)  # a consumer waits so long for an answer, and asks again
WAITS = (0.0, 0.3, 3.0, 3.0, 3.0)  # seconds that a consumer gives the revocation to be effective
FIRST_NEW = 1_000  # consents that are granted while the world is played
STORM_SEEN = 60  # seconds: no world is played for so long
RECENT = 12  # consents that are asked about most: those touched last


def act_of(key: Idempotency) -> Act:
    """Says in the event itself which write it is of."""
    return Act(Initiator.CONSUMER, key.key, Route.PORTAL, NOW)


class Consumers:
    """Writes, one after another, each tried under its own key until it is known what became of it."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._numbers = list(range(1, CONSENTS + 1))
        world.random.shuffle(self._numbers)
        self._new = FIRST_NEW

    async def revoke(self) -> None:
        """Until the storm is over."""
        world = self._world
        while self._numbers and not world.calm:
            await trio.sleep(world.random.uniform(0.04, 0.4))
            number = self._numbers.pop()
            for _ in range(1 + (world.random.random() < 0.1)):
                world.nursery.start_soon(self._try, world.write("revoke", consent_id(number)))
            if world.random.random() < 0.25:
                world.nursery.start_soon(self._grant, self._new)
                self._new += 1

    async def _grant(self, number: int) -> None:
        world = self._world
        append = granted(number, world.admin_clock.now())
        write = world.write("grant", consent_id(number))
        write.append = append
        await self._try(write)
        if write.outcome is Outcome.DONE:
            for edp in EDPS:
                token = world.store.made.token(number, edp, record_of(append), world.admin_clock.now())
                world.edps.learn(consent_id(number), edp, token)
            if world.random.random() < 0.5 and not world.calm:
                await trio.sleep(world.random.uniform(0.0, 1.0))
                await self._try(world.write("revoke", consent_id(number)))

    async def _try(self, write: Write) -> None:
        self._world.trying += 1
        await self._try_for_long(write)
        self._world.trying -= 1

    async def _try_for_long(self, write: Write) -> None:
        world = self._world
        world.edps.touch(write.consent_id)
        for _ in range(12 if world.random.random() < 0.9 else 1):
            try:
                done = await self._call(write)
            except (Lost, LedgerUnavailable):
                world.tell(f"{write.key.key} {write.consent_id[-4:]} is unanswered")
                write.unanswered += 1
            except LedgerReplaced:
                world.count("receipt: of a ledger replaced meanwhile")
            except Fault as fault:
                if fault.kind is Kind.BROKEN:  # 500: nothing is said of the write
                    world.count(f"write: told {type(fault).__name__}")
                    continue
                write.refuse(fault)
                world.tell(f"{write.key.key} {write.consent_id[-4:]} is refused: {type(fault).__name__}")
                return
            else:
                world.checker.acknowledged(write, done)
                if write.is_settled or (world.calm and write.outcome is Outcome.DONE):
                    return
            await trio.sleep(world.random.uniform(0.05, 0.8))

    async def _call(self, write: Write) -> "Done":
        world = self._world
        admin: Admin | None = world.any_admin()
        wire = world.consumer_wire
        if admin is None:
            await world.nobody_there(wire)
            raise Lost
        twice = world.chance("write delivered twice", 0.05)
        if write.append is not None:
            return await call(wire, admin.process, admin.grant, write.append, write.key, patience=PATIENCE, twice=twice)
        wait = Seconds(world.random.choice(WAITS))
        return await call(
            wire, admin.process, admin.revoke, write.consent_id, write.key, wait, patience=PATIENCE, twice=twice
        )


class Edps:
    """Asking, all the time, at every worker."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._requests: dict[tuple[ConsentId, ClientId], Request] = {}
        self._recent: list[ConsentId] = []
        self.newest: list[ConsentId] = []
        self._known = [consent_id(number) for number in range(1, CONSENTS + 1)]
        for (about, edp), token in world.store.made.tokens.items():
            self._requests[about, edp] = _request(token)

    def learn(self, about: ConsentId, edp: ClientId, token: bytes) -> None:
        self._requests[about, edp] = _request(token)
        self.touch(about)

    def touch(self, about: ConsentId) -> None:
        """Something is happening to this consent: worth asking about."""
        self._recent = [*self._recent[-RECENT:], about]
        self.newest = self._recent[-2:]

    async def watch_expiries(self) -> None:
        """Ask about consents when they end by themselves."""
        expires = self._world.store.made.expires
        for about in sorted(self._known, key=lambda known: (expires[known], known)):
            if expires[about] > NOW + STORM_SEEN:
                return
            await trio.sleep(max(0.0, expires[about] - NOW - self._world.now()))
            self.touch(about)

    async def ask(self) -> None:
        """Until the world is over."""
        world = self._world
        random = world.random
        while True:
            await trio.sleep(random.uniform(0.0, 0.3 if world.calm else 0.06))
            workers = [worker for machine in world.machines for worker in machine.workers]
            for worker in random.choices(workers, k=3) if workers else ():
                recent = bool(self._recent) and random.random() < 0.8
                about = random.choice(self._recent if recent else self._known)
                edp = EDPS[random.random() < 0.15]
                request = self._requests.get((about, edp))
                if request is not None:
                    worker.send(Asked(about, edp, request, world.now()))


def _request(token: bytes) -> Request:
    return Request(b"POST", PATH, (FORM,), urlencode({"token": token}).encode(), keep_alive=True)


def key_of(number: int) -> Idempotency:
    """The so manieth write's."""
    key = f"write-{number:04}"
    return Idempotency(ClientId("consumers"), key, hashlib.sha256(key.encode()).digest())
