"""Asking the guards: the same shares that nodes are asked about, each by the EDP's own program on loopback.

What a guard has been told is followed beside it, by its own status, so that a share after a wish can be found.
"""

import base64
import hashlib
import time
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from tests.chaos.calls import BrokenOff, Caller, NoConnection, Reply
from tests.chaos.judge import Answer
from tests.chaos.knowledge import Token
from tests.chaos.pairs import Pair
from tests.chaos.participants import der_of
from tests.chaos.results import States
from tests.chaos.settings import ATPS, DATASET, GUARDS
from tests.chaos.system import NotReady, System
from tests.chaos.verdicts import TAKING, GuardJudge, Said, Verdict, is_decided, is_true, said_by

PATIENCE = 15.0  # seconds, as the guide for EDPs says
READY_WITHIN = 60.0  # until streams are confirmed
LOOK_EVERY = 0.2
DAY = 86_400
JSON = ("Content-Type", "application/json")


class Found(msgspec.Struct, frozen=True):
    """What came of one check. came: within the patience; else the verdict holds the question's own times alone.

    seen: an earlier verdict of this guard about this token was a decided one, so that it has introspected it.
    """

    verdict: Verdict
    came: bool
    seen: bool

    @property
    def said(self) -> Said:
        """What its asker got."""
        return said_by(self.verdict) if self.came else Said.NOTHING


class Guarding:
    """All guards of a run."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._names = {edp.client_id: guard for guard, edp in GUARDS.items()}
        self._secrets = {guard: system.places.secret(guard).read_text().strip() for guard in GUARDS}
        self._bound = {atp: _thumbprint(system, atp) for atp in ATPS}
        self._idle: dict[str, list[Caller]] = {guard: [] for guard in GUARDS}
        self._told: dict[str, list[tuple[float, int]]] = {guard: [(0.0, 0)] for guard in GUARDS}
        self._seen: set[tuple[str, str]] = set()
        self.judge = GuardJudge()
        self.pairs: list[Pair] = []
        self.states: States = {guard: [] for guard in GUARDS}

    def has(self, edp: str) -> bool:
        """Whether this EDP has a guard."""
        return edp in self._names

    async def start(self) -> None:
        """Start them, and wait until the service pushes to each of them. Raises NotReady."""
        for guard in GUARDS:
            self._system.processes[guard].start()
        with trio.move_on_after(READY_WITHIN):
            for guard in GUARDS:
                while not _is_ready(await self.status(guard)):  # noqa: ASYNC110 - a process rings no bell of ours
                    await trio.sleep(LOOK_EVERY)
            return
        raise NotReady(f"no streams to all guards; logs lie in {self._system.places.logs}")

    async def follow(self, began: float) -> None:
        """Note what each guard says of itself, until cancelled."""
        async with trio.open_nursery() as nursery:
            for guard in GUARDS:
                nursery.start_soon(self._follow, guard, began)

    async def status(self, guard: str) -> dict[str, Any]:
        """What `ccs guard status` shows; nothing where it does not answer."""
        with trio.move_on_after(LOOK_EVERY * 5):
            try:
                reply = await self._exchange(guard, "GET", "/v1/status", b"")
            except (NoConnection, BrokenOff):
                return {}
            found: dict[str, Any] = msgspec.json.decode(reply.body) if reply.status == 200 else {}
            return found
        return {}

    def note(
        self,
        token: Token,
        at: float,
        answers: tuple[Answer | None, Answer | None],
        found: Found,
        *,
        lasting: bool = False,
    ) -> None:
        """Keep what came of one share both ways. answers: of the first node, and of the last one asked.

        at: seconds from the start of the load. lasting: of a consent that stands for longer than the run.
        """
        verdict, said = found.verdict, found.said
        yes = said in (Said.CONSENTED, Said.LAST_KNOWN)
        guarded = is_decided(said) and is_true(token.consent, verdict, yes=yes)
        raw, retried = (_is_true(token, answer) for answer in answers)
        raw_decided, retried_decided = (answer is not None and answer.status == 200 for answer in answers)
        self.pairs.append(
            Pair(
                at=at,
                guard=verdict.guard,
                raw=raw,
                retried=retried,
                said=said,
                guarded=guarded,
                reason=verdict.reason,
                stands=not is_true(token.consent, verdict, yes=False),
                raw_decided=raw_decided,
                retried_decided=retried_decided,
                seen=found.seen,
                lasting=lasting,
            )
        )

    async def ask(self, token: Token) -> Found:
        """About one share. Judged."""
        found = await self._ask([token], "/v1/check", self._share(token))
        return found[0]

    async def ask_many(self, tokens: Sequence[Token]) -> list[Found]:
        """About several of one EDP in one call; each is judged."""
        return await self._ask(tokens, "/v1/check-many", {"shares": [self._share(token) for token in tokens]})

    async def _ask(self, tokens: Sequence[Token], path: str, body: Any) -> list[Found]:
        guard = self._names[tokens[0].edp]
        now, wall = trio.current_time(), time.time()
        told = self._told_before(guard, now - TAKING)
        asked = [Verdict(guard, token.expires_at, now, now, wall, wall, told) for token in tokens]
        seen = [(guard, token.token) in self._seen for token in tokens]
        with trio.move_on_after(PATIENCE):
            try:
                reply = await self._exchange(guard, "POST", path, msgspec.json.encode(body))
            except (NoConnection, BrokenOff):
                return [Found(one, came=False, seen=was) for one, was in zip(asked, seen, strict=True)]
            verdicts = _read(asked, reply)
            return [self._take(*each) for each in zip(tokens, verdicts, seen, strict=True)]
        return [Found(one, came=False, seen=was) for one, was in zip(asked, seen, strict=True)]

    def _take(self, token: Token, verdict: Verdict, was_seen: bool) -> Found:
        found = Found(verdict, came=True, seen=was_seen)
        if is_decided(found.said):
            self._seen.add((verdict.guard, token.token))
        self.judge.judge(token.consent, verdict)
        return found

    async def close(self) -> None:
        """End every connection."""
        for callers in self._idle.values():
            while callers:
                await callers.pop().abandon()

    async def _follow(self, guard: str, began: float) -> None:
        states, told = self.states[guard], self._told[guard]
        while True:
            status = await self.status(guard)
            state = status.get("circuit", "silent")
            if not states or states[-1][1] != state:
                states.append((trio.current_time() - began, state))
            seq = status.get("events", {}).get("last_seq", 0)
            if seq > told[-1][1]:
                told.append((trio.current_time(), seq))
            await trio.sleep(LOOK_EVERY)

    def _told_before(self, guard: str, when: float) -> int:
        told = self._told[guard]
        return told[max(0, bisect_right(told, (when, 1 << 62)) - 1)][1]

    def _share(self, token: Token) -> dict[str, str]:
        midnight = int(time.time()) // DAY * DAY
        return {
            "token": token.token,
            "x5t_s256": self._bound[token.atp],
            "dataset_id": DATASET,
            "mpxn": token.mpxn,
            "from": _utc(midnight - 2 * DAY),
            "to": _utc(midnight - DAY),
        }

    async def _exchange(self, guard: str, method: str, path: str, body: bytes) -> Reply:
        """Raises NoConnection, BrokenOff. A kept connection that has ended without a byte is no fault."""
        idle, secret = self._idle[guard], ("Authorization", f"Bearer {self._secrets[guard]}")
        while True:
            caller = idle.pop() if idle else await Caller.reach_plain(self._system.sidecar_port(guard))
            was_used = caller.used
            try:
                reply = await caller.call(method, path, body, JSON, secret)
            except BrokenOff as broken:
                await caller.abandon()
                if was_used and broken.unheard:
                    continue
                raise
            except BaseException:
                await caller.abandon()
                raise
            if reply.closing:
                await caller.abandon()
            else:
                idle.append(caller)
            return reply


def _is_true(token: Token, answer: Answer | None) -> bool:
    """Of what a node answered, if it answered."""
    if answer is None or answer.status != 200:
        return False
    times = Verdict(
        answer.node, token.expires_at, answer.sent, answer.received, answer.sent_wall, answer.received_wall, 0
    )
    return is_true(token.consent, times, yes=answer.active)


def _is_ready(status: dict[str, Any]) -> bool:
    events = status.get("events", {})
    return events.get("push_status") == "enabled" and not events.get("missing_since")


def _read(asked: list[Verdict], reply: Reply) -> list[Verdict]:
    """The verdicts in the order of what was asked. A batch of another length has none."""
    body: dict[str, Any] = msgspec.json.decode(reply.body) if reply.status == 200 else {}
    said = body.get("verdicts", [body])
    if len(said) != len(asked):
        said = [{}] * len(asked)
    now, wall = trio.current_time(), time.time()
    return [_verdict(one, reply.status, each, now, wall) for one, each in zip(asked, said, strict=True)]


def _verdict(asked: Verdict, status: int, said: dict[str, Any], now: float, wall: float) -> Verdict:
    as_of = said.get("as_of")
    return msgspec.structs.replace(
        asked,
        received=now,
        received_wall=wall,
        status=status,
        allowed=said.get("allowed", False),
        reason=said.get("reason", ""),
        freshness=said.get("freshness") or "",
        as_of=datetime.fromisoformat(as_of).timestamp() if as_of else 0.0,
    )


def _thumbprint(system: System, client: str) -> str:
    digest = hashlib.sha256(der_of(system.places, client)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _utc(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
