"""A guard with everything around it in memory: nodes that behave as told, and what it remembers and records."""

import inspect
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

import anyio
import msgspec

from engine.clock import BootTime, UnixTime
from engine.guard import rules
from engine.guard.calls import Call, CallFailed, Reply
from engine.guard.config import AnswerForm, GuardConfig, Policy, Service, Store
from engine.guard.evidence_words import Entry, Failure, OutageEvidence, ShareEvidence
from engine.guard.guard import Guard
from engine.guard.kept_keys import KeyShelf
from engine.guard.memory import MemoryFull
from engine.guard.questions import EVALUATIONS
from engine.guard.shares import KnownConsent, KnownNo, KnownToken
from tests.support.guard_answers import EDP, ISSUER, jwks, plain, signed
from tests.support.guard_words import NOW

A, B, C = "https://a.example:8440", "https://b.example:8440", "https://c.example:8440"
INACTIVE: Final = b'{"active":false}'

POLICY: Final = Policy()

Behaviour = Callable[[Call], Reply | Awaitable[Reply]]


class Ticking(Protocol):
    """An event loop's clock."""

    def current_time(self) -> float: ...


class MovedClock:
    """Wall and boot time that go with an event loop's clock. set_back: of the wall alone, seconds."""

    def __init__(self, ticking: Ticking) -> None:
        self._ticking = ticking
        self.set_back = 0

    def now(self) -> UnixTime:
        return UnixTime(NOW + int(self._ticking.current_time()) - self.set_back)

    def boot(self) -> BootTime:
        return BootTime(self._ticking.current_time())


class Told:
    """A memory of what a guard told it; ends and suspensions are set by tests."""

    def __init__(self) -> None:
        self.tokens: dict[bytes, KnownToken] = {}
        self.refused: list[bytes] = []
        self.ended: set[str] = set()
        self.changes: dict[str, rules.KeptConsent] = {}
        self.suspended: set[str] = set()
        self.floor = UnixTime(0)
        self.lost = UnixTime(0)
        self.missing: UnixTime | None = None
        self.rested = UnixTime(0)
        self.is_full = False
        self.all_suspended = False  # every ATP
        self.writes = 0

    def remember(self, known: KnownToken) -> bool:
        self._write()
        if known.as_of <= self.floor:
            return False
        if known.digest not in self.refused:
            self.tokens[known.digest] = known
        return True

    def refuse(self, digest: bytes, as_of: UnixTime) -> None:  # noqa: ARG002 - the port's
        self._write()
        self.refused.append(digest)
        self.tokens.pop(digest, None)

    def end(self, consent_id: str, version: int, at: UnixTime) -> None:  # noqa: ARG002 - the port's
        self.ended.add(consent_id)

    def change(self, consent_id: str, version: int, entry: bytes | None, expires_at: UnixTime | None) -> None:
        self.changes[consent_id] = rules.KeptConsent(version, ended=False, entry=entry, expires_at=expires_at)

    def suspend(self, client_id: str, version: int, *, suspended: bool) -> None:
        raise NotImplementedError

    def look(self, digest: bytes) -> KnownToken | None:
        known = self.tokens.get(digest)
        if known is None or self.is_suspended(known.client_id):
            return None
        left = tuple(one for consent in known.consents if (one := self.cut(consent)) is not None)
        return msgspec.structs.replace(known, consents=left) if left else None

    def look_for_no(self, digest: bytes) -> KnownNo | None:
        known = self.tokens.get(digest)
        if known is None:
            return KnownNo(NOW) if digest in self.refused else None
        is_over = self.is_suspended(known.client_id) or all(one.consent_id in self.ended for one in known.consents)
        return KnownNo(NOW) if is_over else None

    def has_ended(self, consent_id: str) -> bool:
        return consent_id in self.ended

    def is_suspended(self, client_id: str) -> bool:
        return self.all_suspended or client_id in self.suspended

    def cut(self, shown: KnownConsent) -> KnownConsent | None:
        if shown.consent_id in self.ended:
            return None
        return rules.narrowed(shown, self.changes.get(shown.consent_id))

    @property
    def heard(self) -> int:
        return len(self.ended) + len(self.suspended) + len(self.refused) + len(self.changes) + self.all_suspended

    def rest(self, as_of: UnixTime) -> None:
        self.rested = max(self.rested, as_of)

    def rested_at(self) -> UnixTime:
        return self.rested

    def newest(self) -> UnixTime:
        return max((known.as_of for known in self.tokens.values()), default=UnixTime(0))

    def lost_until(self) -> UnixTime:
        return self.lost

    def missing_since(self) -> UnixTime | None:
        return self.missing

    def mark_missing(self, since: UnixTime) -> None:
        self.missing = since

    def mark_whole(self) -> None:
        self.missing = None

    @contextmanager
    def together(self) -> Iterator[None]:
        yield

    def _write(self) -> None:
        if self.is_full:
            raise MemoryFull("full")
        self.writes += 1


class Recorded:
    """Evidence in a list. before: an outage that an earlier process has begun."""

    def __init__(self, before: float | None = None) -> None:
        self.entries: list[Entry] = []
        self.is_full = False
        self._before = before
        self._noted = 0.0

    def record(self, entry: Entry) -> str:
        return self.record_all([entry])[0]

    def record_all(self, entries: Sequence[Entry]) -> list[str]:
        if self.is_full:
            raise MemoryFull("full")
        self.entries += entries
        return [f"e{len(self.entries) - len(entries) + n}" for n in range(len(entries))]

    def open_outage(self) -> float | None:
        return self._before

    def outage_noted(self) -> float:
        return self._noted

    def note_outage(self, at: float) -> None:
        self._noted = at

    @property
    def shares(self) -> list[ShareEvidence]:
        return [entry for entry in self.entries if isinstance(entry, ShareEvidence)]

    @property
    def outages(self) -> list[OutageEvidence]:
        return [entry for entry in self.entries if isinstance(entry, OutageEvidence)]


class Nodes:
    """The guard's transport, in memory: each node answers as it is told to. calls: when, and by whom."""

    def __init__(self, *origins: str) -> None:
        self.behaviours: dict[str, Behaviour] = dict.fromkeys(origins or (A,), answers())
        self.calls: list[tuple[float, str, Call]] = []
        self.has_issuer = True
        self.issuer_asked: list[float] = []

    def all(self, behaviour: Behaviour) -> None:
        self.behaviours = dict.fromkeys(self.behaviours, behaviour)

    @property
    def times(self) -> list[float]:
        return [round(at, 6) for at, _, _ in self.calls]

    @property
    def asked(self) -> list[str]:
        return [origin for _, origin, _ in self.calls]

    async def call(self, address: str, call: Call) -> Reply:
        if address == ISSUER:
            self.issuer_asked.append(anyio.current_time())
            if not self.has_issuer:
                raise CallFailed(Failure.CONNECT)
            return Reply(200, b"application/json", jwks())
        self.calls.append((anyio.current_time(), address, call))
        reply = self.behaviours[address](call)
        return await reply if inspect.isawaitable(reply) else reply

    async def aclose(self) -> None:
        """Nothing is open."""


def token_of(call: Call) -> str:
    return parse_qs(call.body.decode())["token"][0]


def says(
    body: bytes, status: int = 200, media_type: bytes = b"application/json", retry_after: bytes = b""
) -> Behaviour:
    return lambda call: Reply(status, media_type, body, call.request_id, retry_after)


def answers(*entries: bytes, **changes: Any) -> Behaviour:
    """Yes to every introspection but a probe, and no to what is in a batch, as of now."""

    def behave(call: Call) -> Reply:
        now = UnixTime(NOW + int(anyio.current_time()))
        if call.path == EVALUATIONS:
            return refuses_all(call, now, changes.get("ccs_freshness", "current"))
        body = INACTIVE if token_of(call).startswith("probe-") else plain(*entries, now=now, **changes)
        return Reply(200, b"application/json", body, call.request_id)

    return behave


def refuses_all(call: Call, now: UnixTime, freshness: str) -> Reply:
    """A batch whose tokens nobody has issued."""
    items = [{"decision": False, "context": {"code": "token_not_active"}}] * len(json.loads(call.body)["evaluations"])
    about = {"decision_id": "d_0", "evaluated_at": now, "ccs_freshness": freshness, "ccs_as_of": now - 1}
    body = json.dumps({"evaluations": items, "context": about}).encode()
    return Reply(200, b"application/json", body, call.request_id)


def answers_signed(**changes: Any) -> Behaviour:
    def behave(call: Call) -> Reply:
        now, token = UnixTime(NOW + int(anyio.current_time())), token_of(call)
        body = INACTIVE if token.startswith("probe-") else plain(now=now, **changes)
        return Reply(200, b"application/token-introspection+jwt", signed(body, token, now), call.request_id)

    return behave


def fails(failure: Failure) -> Behaviour:
    def behave(_call: Call) -> Reply:
        raise CallFailed(failure)

    return behave


def black_hole(_call: Call) -> Awaitable[Reply]:
    async def wait() -> Reply:
        await anyio.sleep_forever()
        raise AssertionError("nothing ends this")

    return wait()


def slowly(seconds: float, behaviour: Behaviour) -> Behaviour:
    def behave(call: Call) -> Awaitable[Reply]:
        async def wait() -> Reply:
            await anyio.sleep(seconds)
            reply = behaviour(call)
            return await reply if inspect.isawaitable(reply) else reply

        return wait()

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """One after another, the last for ever."""
    left = itertools.chain(behaviours[:-1], itertools.repeat(behaviours[-1]))

    def behave(call: Call) -> Reply | Awaitable[Reply]:
        behaviour = next(left)
        return behaviour(call)

    return behave


def config(
    *origins: str, policy: Policy = POLICY, answers: AnswerForm = AnswerForm.PLAIN, **service: Any
) -> GuardConfig:
    nowhere = Path("nowhere")
    return GuardConfig(
        client_id=EDP,
        issuer=ISSUER,
        answers=answers,
        policy=policy,
        service=Service(
            addresses=origins or (A,), ca_file=nowhere, certificate_file=nowhere, key_file=nowhere, **service
        ),
        store=Store(directory=nowhere, key_file=nowhere),
    )


class Stand:
    """All of it. draw: jitter and the ramp's choice; 0.5 unless a test says otherwise."""

    def __init__(
        self,
        ticking: Ticking,
        *origins: str,
        before: float | None = None,
        nodes: Nodes | None = None,
        shelf: KeyShelf | None = None,
        **settings: Any,
    ) -> None:
        self.nodes = Nodes(*origins) if nodes is None else nodes
        self.memory = Told()
        self.evidence = Recorded(before)
        self.clock = MovedClock(ticking)
        self.draw = 0.5
        self.guard = Guard(
            config(*origins, **settings), memory=self.memory, evidence=self.evidence, shelf=shelf, transport=self.nodes,
            clock=self.clock, draw=lambda: self.draw,
        )  # fmt: skip
