"""One EDP's machine: the real Guard and the real GuardEvents in a process that may die, over disks that stay."""

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import anyio.to_thread
import msgspec
import trio
from anyio.abc import TaskStatus

from engine.clock import BootTime, UnixTime
from engine.consent.records import ClientId
from engine.guard import events as guard_events
from engine.guard import rules
from engine.guard.config import AnswerForm, Events, GuardConfig, Policy, Receiver, Service
from engine.guard.events import GuardEvents
from engine.guard.evidence_words import Entry, OutageEvidence, ShareEvidence
from engine.guard.guard import Guard
from engine.guard.receiver import PushReceiver
from engine.listener.http1 import Response
from tests.support.event_files import store_beside
from tests.support.guard_memory import InMemory
from tests.support.guard_stand import Recorded
from tests.support.push_service import ISSUER
from tests.world.pushing.network import Answering
from tests.world.pushing.nodes import ADDRESSES, SIGNING, Nodes
from tests.world.pushing.service import Service as AdminService
from tests.world.simulation.machines import Process

if TYPE_CHECKING:
    from tests.world.pushing.checker import Checker
    from tests.world.pushing.world import World

T = TypeVar("T")
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Evidence(Recorded):
    """Evidence on a disk that stays. begins: told of each outage that begins."""

    def __init__(self, begins: Callable[[], None]) -> None:
        super().__init__()
        self._begins = begins

    def record_all(self, entries: Sequence[Entry]) -> list[str]:
        for entry in entries:
            if isinstance(entry, OutageEvidence) and not entry.ended_at:
                self._begins()
        return super().record_all(entries)

    def open_outage(self) -> float | None:
        newest = self.outages[-1] if self.outages else None
        return newest.began_at if isinstance(newest, OutageEvidence) and not newest.ended_at else None

    def shows(self, evidence_id: str, consent_id: str) -> bool:
        """Whether it is written down under this id that a share of this consent was allowed."""
        place = int(evidence_id[1:]) if evidence_id.startswith("e") and evidence_id[1:].isdigit() else -1
        entry = self.entries[place] if 0 <= place < len(self.entries) else None
        return isinstance(entry, ShareEvidence) and entry.allowed and entry.consent_id == consent_id


class CheckedMemory(InMemory):
    """The rules, on a disk that stays; each word that changes something is told to the checker."""

    def __init__(self, checker: "Checker", client_id: ClientId) -> None:
        super().__init__()
        self._checker, self._client_id = checker, client_id
        self._changed = partial(checker.memory_changed, client_id)

    def refuse(self, digest: bytes, as_of: UnixTime) -> None:
        self._checker.refuses(self._client_id, digest)
        super().refuse(digest, as_of)

    def suspend(self, client_id: str, version: int, *, suspended: bool) -> None:
        self._checker.party_changed(self._client_id, client_id, version, suspended=suspended)
        super().suspend(client_id, version, suspended=suspended)

    def end(self, consent_id: str, version: int, at: UnixTime) -> None:
        before = self._consents.get(consent_id)
        super().end(consent_id, version, at)
        self._changed(consent_id, before, self._consents.get(consent_id))

    def change(self, consent_id: str, version: int, entry: bytes | None, expires_at: UnixTime | None) -> None:
        before = self._consents.get(consent_id)
        super().change(consent_id, version, entry, expires_at)
        self._changed(consent_id, before, self._consents.get(consent_id))

    def consent(self, consent_id: str) -> rules.KeptConsent | None:
        return self._consents.get(consent_id)

    def is_suspended(self, client_id: str) -> bool:
        party = self._parties.get(client_id)
        return party is not None and party.suspended


class GuardMachine:
    """Its disks: the file of events, the memory, the evidence. As `Clock`, it has the world's."""

    def __init__(self, world: "World", client_id: ClientId, directory: Path) -> None:
        self._world = world
        self.client_id = client_id
        self.memory = CheckedMemory(world.checker, client_id)
        self.evidence = Evidence(partial(world.contacts.outage_begins, client_id))
        self.process: Process | None = None
        self.guard: Guard | None = None
        self.events: GuardEvents | None = None
        self.booted_at = 0.0
        self._config = _config(client_id, directory, world.cap)

    def now(self) -> UnixTime:
        return self._world.wall()

    def boot(self) -> BootTime:
        return BootTime(self._world.now())

    async def keep(self) -> None:
        """For ever: a process, and after its death the next one."""
        world = self._world
        while True:
            process = self.process = world.process(f"guard {self.client_id}")
            gone = trio.Event()
            process.at_death.append(gone.set)
            world.nursery.start_soon(process.run, self._main)
            await gone.wait()
            self.guard = self.events = None
            away = world.random.choice((0.5, 0.5, 3.0, 30.0, 240.0))
            world.tell(f"{self.client_id} is gone for {away}")
            await trio.sleep(0.5 if world.calm else away)

    async def _main(self, process: Process) -> None:
        """As `opening.open_parts`, on these disks."""
        world, draw = self._world, self._world.random.random
        transport, service = Nodes(world, self.client_id), AdminService(world, self.client_id)
        guard = Guard(
            self._config, memory=self.memory, evidence=self.evidence, transport=transport, clock=self, draw=draw
        )
        events = GuardEvents(self._config, self.memory, self, jitter=draw, transmitter=service)
        process.at_death.append(events._store.close)  # entering takes time, and may be the last that it does
        async with guard, events, trio.open_nursery() as nursery:
            await nursery.start(_run, events)
            self.guard, self.events, self.booted_at = guard, events, world.now()
            world.tell(f"{self.client_id} is up")

    # What comes to it.

    def receive(self, content: bytes, answering: Answering) -> None:
        """A push has arrived; nobody answers where no process runs."""
        if self.process is not None and self.process.alive and self.events is not None:
            self.process.start(self._take, self.events, content, answering)

    async def _take(self, events: GuardEvents, content: bytes, answering: Answering) -> None:
        receiver = events._receiver
        assert receiver is not None
        response: Response = await receiver._take(content)
        self._world.count(f"push: {response.status}")
        if response.status == 202:
            self._world.checker.takes(self.client_id, content)
        answering.answer(response)

    def has_stored(self, jti: str) -> bool:
        """Whether its file has it: what would be there after a loss of power."""
        events = self.events
        if events is None:
            return False
        return events._store._one("SELECT 1 FROM events WHERE jti = ?", jti) is not None


async def _run(events: GuardEvents, *, task_status: TaskStatus[None]) -> None:
    await events.run(task_status=task_status)


@contextmanager
def in_memory(world: "World") -> Iterator[None]:
    """No sockets, no TLS files, no threads: the receiver is called, disks take simulated time and may be the last."""

    async def in_line(function: Callable[..., T], *args: Any, **_: Any) -> T:
        with trio.CancelScope(shield=True):
            before = world.random.random() < 0.5  # a step of time is longer than a disk: one for the way there or back
            await trio.sleep(0.01 if before else 0.0)
            await world.may_die("before it is stored")
            result = function(*args)
            await world.may_die("after it is stored")
            await trio.sleep(0.0 if before else 0.01)
        return result

    async def listen(_: PushReceiver, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started(0)
        await trio.sleep_forever()

    with ExitStack() as stack:
        for target, name, value in (
            (anyio.to_thread, "run_sync", in_line),
            (guard_events, "service_tls", lambda _: _TLS),
            (PushReceiver, "_context", lambda _: _TLS),
            (PushReceiver, "run", listen),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def _config(client_id: ClientId, directory: Path, cap: float) -> GuardConfig:
    nowhere = Path("nowhere")
    receiver = Receiver(
        certificate_file=nowhere, key_file=nowhere, client_ca_file=nowhere,
        public_url=f"https://{client_id}.example/events",
    )  # fmt: skip
    service = Service(addresses=ADDRESSES, ca_file=nowhere, certificate_file=nowhere, key_file=nowhere)
    return GuardConfig(
        client_id=client_id,
        issuer=ISSUER,
        answers=AnswerForm.SIGNED if client_id in SIGNING else AnswerForm.PLAIN,
        policy=msgspec.structs.replace(Policy(), outage_cap=cap),
        service=service,
        store=store_beside(directory / client_id / "events.sqlite"),
        events=Events(receiver=receiver),
    )
