"""Asking the guards: the same shares that nodes are asked about, each by the EDP's own program on loopback.

What a guard has been told is followed beside it, by its own status, so that a share after a wish can be found.
"""

import base64
import hashlib
import time
from bisect import bisect_right
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
from tests.chaos.verdicts import TAKING, GuardJudge, Said, Verdict, is_true, said_by

PATIENCE = 15.0  # seconds, as the guide for EDPs says
READY_WITHIN = 60.0  # until streams are confirmed
LOOK_EVERY = 0.2
DAY = 86_400
JSON = ("Content-Type", "application/json")


class Guarding:
    """All guards of a run."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._names = {edp.client_id: guard for guard, edp in GUARDS.items()}
        self._secrets = {guard: system.places.secret(guard).read_text().strip() for guard in GUARDS}
        self._bound = {atp: _thumbprint(system, atp) for atp in ATPS}
        self._idle: dict[str, list[Caller]] = {guard: [] for guard in GUARDS}
        self._told: dict[str, list[tuple[float, int]]] = {guard: [(0.0, 0)] for guard in GUARDS}
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
        self, token: Token, at: float, answers: tuple[Answer | None, Answer | None], found: tuple[Verdict, bool]
    ) -> None:
        """Keep what came of one share both ways. answers: of the first node, and of the last one asked.

        found: what `ask` gave. at: seconds from the start of the load.
        """
        verdict, came = found
        said = said_by(verdict) if came else Said.NOTHING
        yes = said in (Said.CONSENTED, Said.LAST_KNOWN)
        guarded = (yes or said is Said.DENIED) and is_true(token.consent, verdict, yes=yes)
        raw, retried = (_is_true(token, answer) for answer in answers)
        stands = not is_true(token.consent, verdict, yes=False)
        self.pairs.append(Pair(at, verdict.guard, raw, retried, said, guarded, verdict.reason, stands))

    async def ask(self, token: Token) -> tuple[Verdict, bool]:
        """About one share. Judged; False: no verdict came, and the first is the question's own times."""
        guard = self._names[token.edp]
        now, wall = trio.current_time(), time.time()
        asked = Verdict(guard, token.expires_at, now, now, wall, wall, self._told_before(guard, now - TAKING))
        with trio.move_on_after(PATIENCE):
            try:
                reply = await self._exchange(guard, "POST", "/v1/check", self._share(token))
            except (NoConnection, BrokenOff):
                return asked, False
            verdict = _read(asked, reply)
            self.judge.judge(token.consent, verdict)
            return verdict, True
        return asked, False

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

    def _share(self, token: Token) -> bytes:
        midnight = int(time.time()) // DAY * DAY
        return msgspec.json.encode(
            {
                "token": token.token,
                "x5t_s256": self._bound[token.atp],
                "dataset_id": DATASET,
                "mpxn": token.mpxn,
                "from": _utc(midnight - 2 * DAY),
                "to": _utc(midnight - DAY),
            }
        )

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


def _read(asked: Verdict, reply: Reply) -> Verdict:
    said: dict[str, Any] = msgspec.json.decode(reply.body) if reply.status == 200 else {}
    as_of = said.get("as_of")
    return msgspec.structs.replace(
        asked,
        received=trio.current_time(),
        received_wall=time.time(),
        status=reply.status,
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
