"""Whoever grants and revokes all the time, and does not let go of a write before its fate is known.

Every write has an idempotency key. One that gets no answer is sent again under its key, as the guide for ATPs says;
some are left alone after the first time-out, as by a caller that has died: they may be done, once, or not.
"""

import json
import time
import uuid
from random import Random
from typing import Any

import msgspec
import trio

from admin.consents.made_people import made_grant
from engine.clock import UnixTime, format_utc, parse_utc
from engine.consent.windows import months_after
from tests.chaos.calls import BrokenOff, Caller, NoConnection, Reply
from tests.chaos.fates import GRANTED, RENEWED, REVOKED, Write
from tests.chaos.judge import Consent
from tests.chaos.knowledge import Knowledge, Token
from tests.chaos.settings import ATPS, DATASET, EDPS, GUARDS, OPERATOR
from tests.chaos.standing import Held, Standing
from tests.chaos.system import System

WRITERS = 6
PATIENCE = 5.0  # seconds for one attempt, what it may wait for effect apart
WAIT = 10  # seconds that a revocation may wait to be effective
AGAIN = (0.1, 0.8)  # seconds between two attempts
PAUSE = (0.1, 0.7)  # seconds between two writes of one writer
STANDING = 150  # consents; with more there are rather revocations than grants
BESIDE = 24  # lasting consents that are granted, and tokens that are replaced, at once
CHANGED = 0.05  # share of lasting consents that end while the run lasts; as many are renewed
REPLACE_EVERY = 0.5  # seconds between two looks at which tokens are near their end
DAY = 86_400
ABANDONED = 0.1  # share of unanswered writes that nobody asks about again
SHORT = 0.05  # share of consents that end by themselves while the run lasts
JSON = ("Content-Type", "application/json")


class Writers:
    """Grants and revokes through the machine API until told to stop; then knows the fate of what it has begun."""

    def __init__(self, system: System, knowledge: Knowledge, random: Random) -> None:
        self._system, self._knowledge, self._random = system, knowledge, random
        self._contexts = {client: system.context(client) for client in (OPERATOR, *ATPS)}
        self._callers: dict[str, list[Caller]] = {}
        self._number = random.randrange(2**32)
        self.writes: list[Write] = []
        self.effects: list[tuple[str, float]] = []  # how it was concluded, seconds from the first attempt
        self.open = 0
        self._stopping = False

    async def run(self) -> None:
        """Write until `stop`, and until every write that was begun has come to its end."""
        async with trio.open_nursery() as nursery:
            for _ in range(WRITERS):
                nursery.start_soon(self._write)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True

    async def close(self) -> None:
        """End every connection."""
        for callers in self._callers.values():
            while callers:
                await callers.pop().abandon()

    async def register(self, forms: list[dict[str, Any]]) -> None:
        """Participants; nothing is broken yet."""
        for form in forms:
            reply = await self._once(OPERATOR, "POST", "/participants", form, str(uuid.uuid4()), PATIENCE)
            assert reply is not None
            assert reply.status == 201, reply.body

    async def fresh_token(self, consent: Consent, edp: str) -> Token | None:
        """A token of a consent that stands."""
        return await self._token(consent, edp, OPERATOR)

    async def get(self, path: str) -> dict[str, Any]:
        """As the operator, again until it is answered."""
        return _decoded(await self._known(OPERATOR, "GET", path, None, PATIENCE))

    async def grant_lasting(self, standing: Standing, count: int) -> None:
        """So many for each EDP that has a guard, with tokens; nothing is broken yet."""
        limiter = trio.CapacityLimiter(BESIDE)

        async def one(edp: str) -> None:
            async with limiter:
                token = await self._granted(edp, lasting=True)
            if token is not None:
                standing.add(token, time.time())
                self._knowledge.all[token.consent.consent_id] = token

        async with trio.open_nursery() as nursery:
            for edp in GUARDS.values():
                for _ in range(count):
                    nursery.start_soon(one, edp.client_id)

    async def keep_lasting(self, standing: Standing, seconds: float, writes: trio.Nursery) -> None:
        """Replace their tokens in time; end some of them, and renew some, evenly over so many seconds.

        writes: where what was begun comes to its end.
        """
        count = max(1, round(CHANGED * len(standing.held)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._replace_tokens, standing, nursery)
            for _ in range(count):
                await trio.sleep(seconds / count / 2)
                if held := standing.take(to_end=True):
                    writes.start_soon(self._revoke_of, held.token)
                await trio.sleep(seconds / count / 2)
                if held := standing.take(to_end=False):
                    writes.start_soon(self._renew, held.token)
            nursery.cancel_scope.cancel()

    async def _replace_tokens(self, standing: Standing, nursery: trio.Nursery) -> None:
        while True:
            for held in standing.due(time.time()):
                held.busy = True
                nursery.start_soon(self._replace_token, standing, held)
            await trio.sleep(REPLACE_EVERY)

    async def _replace_token(self, standing: Standing, held: Held) -> None:
        before = held.token
        token = await self._token(before.consent, before.edp, before.atp)
        held.busy = False
        if token is not None:
            standing.replace(held, msgspec.structs.replace(token, atp=before.atp, mpxn=before.mpxn))
            self._knowledge.all[before.consent.consent_id] = held.token

    async def _renew(self, token: Token) -> None:
        """For as long as may be."""
        form = {
            "consent_expires_at": format_utc(UnixTime(months_after(UnixTime(int(time.time())), 12) - DAY)),
            "address_confirmed": True,
            "wording": "renew-1",
            "evidence": "case-4471",
        }
        write = Write(RENEWED, token.consent.consent_id)
        path = f"/consents/{token.consent.consent_id}/renew"
        said = await self._keyed(write, token.atp, path, form, PATIENCE)
        if said is not None:
            token.consent.expires_at = parse_utc(said["consent_expires_at"])

    async def _write(self) -> None:
        while not self._stopping:
            if len(self._knowledge.standing) > STANDING * self._random.uniform(0.5, 1.0):
                await self._revoke()
            else:
                await self._grant()
            await trio.sleep(self._random.uniform(*PAUSE))

    async def _grant(self) -> None:
        token = await self._granted(self._random.choice(EDPS).client_id)
        if token is not None:
            self._knowledge.add(token)

    async def _granted(self, edp: str, *, lasting: bool = False) -> Token | None:
        """A token of a new consent; None: nobody knows of it, or it is over."""
        self._number += 1
        atp = self._random.choice(ATPS)
        form = json.loads(
            made_grant(self._number, atp=atp, edp=edp, dataset_id=DATASET, now=UnixTime(int(time.time())))
        )
        details = form["authorization_details"]
        if not lasting and self._random.random() < SHORT:
            details["consent_expires_at"] = format_utc(UnixTime(int(time.time()) + self._random.randrange(20, 120)))
        write = Write(GRANTED, details["atp_reference"])
        said = await self._keyed(write, atp, "/consents", form, PATIENCE)
        if said is None:
            return None
        consent = Consent(said["consent_id"], parse_utc(said["consent_expires_at"]))
        token = await self._token(consent, edp, atp)
        if token is None:
            return None
        return msgspec.structs.replace(token, atp=atp, mpxn=details["meter_points"][0])

    async def _token(self, consent: Consent, edp: str, client: str) -> Token | None:
        """None: a consent of a few seconds may have ended before."""
        path = f"/consents/{consent.consent_id}/tokens"
        reply = await self._known(client, "POST", path, {"edp": edp}, PATIENCE)
        if reply is not None and reply.status == 409:
            return None
        minted = _decoded(reply)
        return Token(minted["token"], edp, consent, parse_utc(minted["expires_at"]))

    async def _revoke(self) -> None:
        token = self._knowledge.take_standing()
        if token is None or token.consent.expires_at < time.time() + 300:
            return  # it ends by itself
        await self._revoke_of(token)

    async def _revoke_of(self, token: Token) -> None:
        consent = token.consent
        write = Write(REVOKED, consent.consent_id)
        began = consent.revoking = trio.current_time()
        wait = self._random.choice((0, WAIT))
        path = f"/consents/{consent.consent_id}/revoke?wait={wait}"
        said = await self._keyed(write, OPERATOR, path, {"reason": "withdrawn"}, PATIENCE + wait)
        if said is None:
            return
        consent.recorded, consent.recorded_wall = trio.current_time(), time.time()
        consent.end_seq = write.seq
        while said["state"] != "effective":
            path = f"/consents/{consent.consent_id}/revocation?wait={WAIT}"
            said = _decoded(await self._known(OPERATOR, "GET", path, None, PATIENCE + WAIT))
        consent.effective = trio.current_time()
        self.effects.append((said["how"], consent.effective - began))
        self._knowledge.ask_everywhere(token, self._system.nodes)

    async def _keyed(
        self, write: Write, client: str, path: str, body: dict[str, Any], patience: float
    ) -> dict[str, Any] | None:
        """The acknowledgement; None = refused for good, or abandoned."""
        self.writes.append(write)
        abandoned = self._random.random() < ABANDONED
        key = str(uuid.uuid4())
        self.open += 1
        reply = await self._known(client, "POST", path, body, patience, key, write, abandoned=abandoned)
        self.open -= 1
        if reply is None:
            return None
        if reply.status not in (200, 201):
            write.refusal = f"{reply.status} {reply.body[:300].decode(errors='replace')}"
            return None
        said: dict[str, Any] = msgspec.json.decode(reply.body)
        write.seq = said["position"]["seq"]
        return said

    async def _known(
        self,
        client: str,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        patience: float,
        key: str = "",
        write: Write | None = None,
        *,
        abandoned: bool = False,
    ) -> Reply | None:
        """Send it until it is answered with anything but 503. None: it was abandoned after a time-out."""
        while True:
            if write is not None:
                write.attempts += 1
            reply = await self._once(client, method, path, body, key, patience)
            if reply is not None and reply.status < 500 and reply.status != 429:
                return reply
            if reply is None and write is not None:
                write.unanswered += 1
                if abandoned:
                    return None
            await trio.sleep(self._random.uniform(*AGAIN))

    async def _once(
        self, client: str, method: str, path: str, body: dict[str, Any] | None, key: str, patience: float
    ) -> Reply | None:
        """One attempt; None = nobody knows whether it was done."""
        idle = self._callers.setdefault(client, [])
        headers = [JSON, *([("Idempotency-Key", key)] if key else [])]
        raw = b"" if body is None else json.dumps(body).encode()
        with trio.move_on_after(patience):
            caller = None
            try:
                caller = idle.pop() if idle else await Caller.reach(self._system.machine_port, self._contexts[client])
                reply = await caller.call(method, path, raw, *headers)
            except NoConnection:
                return None
            except BrokenOff:
                assert caller is not None
                await caller.abandon()
                return None
            except BaseException:
                if caller is not None:
                    await caller.abandon()
                raise
            if reply.closing:
                await caller.abandon()
            else:
                idle.append(caller)
            return reply
        return None


def _decoded(reply: Reply | None) -> dict[str, Any]:
    assert reply is not None
    assert reply.status in (200, 201), reply.body
    found: dict[str, Any] = json.loads(reply.body)
    return found
