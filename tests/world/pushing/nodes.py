"""Engine nodes as a guard's calls find them: they answer from the ledger as of a moment, or not at all."""

import functools
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import trio

from engine.clock import UnixTime, format_utc, parse_utc
from engine.consent.records import ClientId, ConsentId, ConsentRecord
from engine.consent.states import State
from engine.guard import decisions
from engine.guard.answers import PLAIN
from engine.guard.calls import Call, CallFailed, Reply
from engine.guard.evidence_words import Failure
from engine.guard.questions import EVALUATIONS
from engine.tokens.jws import encode_part
from tests.support.guard_answers import jwks, plain
from tests.support.guard_stand import INACTIVE, A, B
from tests.support.guard_words import NOW, entry
from tests.support.push_service import ISSUER
from tests.world.pushing.attacker import signed_reply
from tests.world.pushing.keys import answer_signers
from tests.world.pushing.ledger import digest_of

if TYPE_CHECKING:
    from tests.world.pushing.world import World

ADDRESSES: Final = (A, B)
CURRENT: Final = 2.0  # seconds that a node may be behind and still say `current`
SIGNING: Final = (ClientId("edp-2"),)  # EDPs that are registered for signed answers
STATUSES: Final = {Failure.SERVER: 503, Failure.TOO_MANY: 429, Failure.REFUSED: 403}


class Node:
    """behind_since: the feed does not reach it any more. down: how callers fail; None = it answers."""

    def __init__(self) -> None:
        self.behind_since: float | None = None
        self.down: Failure | None = None


class Nodes:
    """`engine.guard.calls.Transport` of one guard."""

    def __init__(self, world: "World", client_id: ClientId) -> None:
        self._world = world
        self._client_id = client_id

    async def call(self, address: str, call: Call) -> Reply:
        world = self._world
        if address == ISSUER:
            return await self._keys()
        node = world.nodes[address]
        there, back = world.ways()
        if there:
            await trio.sleep(there)
        if (down := node.down) is not None:
            if back:
                await trio.sleep(back)
            world.contacts.fails(self._client_id, address, down)
            return await self._fails(down, call)
        if world.chance("answer slow", 0.02):
            world.contacts.fails(self._client_id, address, Failure.TIMEOUT)  # it may be too slow
            await trio.sleep(world.random.uniform(0.1, 3.0))
        is_batch = call.path == EVALUATIONS
        reply, is_current = self._decide(address, node, call) if is_batch else self._answer(node, call)
        if back:
            await trio.sleep(back)
        forged = None if is_batch else self._replaced(call)
        if not is_batch and world.chance("answer lost", 0.02):
            world.contacts.fails(self._client_id, address, Failure.RESET)
            raise CallFailed(Failure.RESET)
        if forged is not None:
            world.contacts.fails(self._client_id, address, Failure.NO_ANSWER)
        elif reply.status != 200:
            world.contacts.fails(self._client_id, address, Failure.SERVER)
        else:
            world.contacts.answers(self._client_id, address, is_current=is_current)
        return forged or reply

    def _replaced(self, call: Call) -> Reply | None:
        """What comes in an answer's place now and then."""
        world = self._world
        is_worth_it = self._client_id in SIGNING and world.attacker.has_stale(self._client_id, _token(call))
        if world.chance("answer in another's place", 0.3 if is_worth_it else 0.03):
            return self._forged(call)
        return None

    async def _keys(self) -> Reply:
        await trio.sleep(self._world.latency)
        if self._world.admin_down:
            raise CallFailed(Failure.CONNECT)
        return Reply(200, PLAIN, jwks(answer_signers()[0]))

    def _forged(self, call: Call) -> Reply | None:
        """As if the consent, whatever has become of it, were active."""
        world, token = self._world, _token(call)
        consent_id = world.consents_of.get(token)
        if consent_id is None:
            return None
        body = self._yes(consent_id, world.ledger.now(consent_id), int(world.now()), is_current=True)
        return world.attacker.answer(self._client_id, token, call, body, is_signed=self._client_id in SIGNING)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _fails(self, how: Failure, call: Call) -> Reply:
        if how is Failure.TIMEOUT:
            await trio.sleep(30.0)
        if (status := STATUSES.get(how)) is not None:
            return Reply(status, request_id=call.request_id)
        raise CallFailed(how)

    def _answer(self, node: Node, call: Call) -> tuple[Reply, bool]:
        """And whether it says what is true now: a no always counts as that."""
        world = self._world
        as_of, is_current = self._freshness(node)
        if world.now() - as_of >= world.node_cap:
            return Reply(503, request_id=call.request_id), False
        form = {name: values[0] for name, values in parse_qs(call.body.decode()).items()}
        consent_id = world.consents_of.get(form["token"])
        body = INACTIVE
        if consent_id is not None:
            record = world.ledger.at(consent_id, max(as_of, 0.0))
            if record is not None and self._is_active(record, form["ccs_to"], as_of):
                body = self._yes(consent_id, record, int(as_of), is_current=is_current)
                world.checker.said_yes(self._client_id, consent_id, call.request_id, is_current=is_current)
            else:
                world.checker.said_no(self._client_id, consent_id)
        if self._client_id in SIGNING:
            reply = signed_reply(self._client_id, form["token"], world.wall(), body, call.request_id)
        else:
            reply = Reply(200, PLAIN, body, call.request_id)
        if consent_id is not None:
            world.attacker.heard(self._client_id, form["token"], reply, is_yes=body is not INACTIVE)
        return reply, is_current or body is INACTIVE

    def _freshness(self, node: Node) -> tuple[float, bool]:
        """As of when it answers, and whether that is `current`."""
        now = self._world.now()
        as_of = now - self._world.random.uniform(0.1, 1.5) if node.behind_since is None else node.behind_since
        return as_of, now - as_of < CURRENT

    def _decide(self, address: str, node: Node, call: Call) -> tuple[Reply, bool]:
        """A batch, whose tokens are named by their digests."""
        world = self._world
        as_of, is_current = self._freshness(node)
        if world.now() - as_of >= world.node_cap:
            return Reply(503, request_id=call.request_id), False
        asked, name = json.loads(call.body), f"d_{call.request_id.decode()}"
        known = {_named(consent_id): consent_id for consent_id in world.ledger.consents}
        items: list[dict[str, Any]] = []
        for place, item in enumerate(asked["evaluations"]):
            consent_id = known.get(item["subject"]["id"])
            until = item.get("action", asked["action"])["properties"]["to"]
            items.append(self._decision(consent_id, until, as_of, f"{name}.{place}", is_current=is_current))
        about = {
            "decision_id": name, "evaluated_at": world.wall(),
            "ccs_freshness": "current" if is_current else "last_known", "ccs_as_of": NOW + int(as_of),
        }  # fmt: skip
        if is_current:
            world.checker.said_current(self._client_id)
        body = json.dumps({"evaluations": items, "context": about}, separators=(",", ":")).encode()
        if self._client_id not in SIGNING:
            return Reply(200, PLAIN, body, call.request_id), is_current
        return Reply(200, decisions.SIGNED, self._signed_decisions(address, call, body), call.request_id), is_current

    def _decision(
        self, consent_id: ConsentId | None, until: str, as_of: float, name: str, *, is_current: bool
    ) -> dict[str, Any]:
        record = None if consent_id is None else self._world.ledger.at(consent_id, max(as_of, 0.0))
        if consent_id is None or record is None or not self._is_active(record, until, as_of):
            if consent_id is not None:
                self._world.checker.said_no(self._client_id, consent_id)
            return {"decision": False, "context": {"code": decisions.NOT_ACTIVE}}
        self._world.checker.said_yes(self._client_id, consent_id, name.encode(), is_current=is_current)
        context = {"consent_id": consent_id, "ccs_consent_version": record.consent_version}
        return {"decision": True, "context": context}

    def _signed_decisions(self, address: str, call: Call, body: bytes) -> bytes:
        envelope = {"iss": address, "aud": self._client_id, "iat": self._world.wall()}
        asked = encode_part(hashlib.sha256(call.body).digest()).decode()
        claims = (
            json.dumps(envelope | {"req": asked}, separators=(",", ":")).encode()[:-1] + b',"result":' + body + b"}"
        )
        return answer_signers()[0].sign(decisions.TYPE, claims)

    def _is_active(self, record: ConsentRecord, asked_until: str, as_of: float) -> bool:
        suspended = self._world.ledger.is_suspended(max(as_of, 0.0))
        until = record.data_to
        covered = until is None or parse_utc(asked_until) <= until
        live = record.state is State.ACTIVE and record.expires_at > self._world.wall()
        return live and covered and not suspended and self._client_id in record.edps

    def _yes(self, consent_id: ConsentId, record: ConsentRecord, as_of: int, *, is_current: bool) -> bytes:
        now = self._world.wall()
        until = None if record.data_to is None else format_utc(record.data_to)
        shown = entry(
            consent_id=consent_id, access_mode=record.access_mode.name.lower(),
            consent_expires_at=format_utc(record.expires_at), data_from=format_utc(record.data_from), data_to=until,
        )  # fmt: skip
        return plain(
            shown, now=now, aud=self._client_id, iat=now, exp=now + 300, ccs_consent_version=record.consent_version,
            ccs_freshness="current" if is_current else "last_known", ccs_as_of=NOW + as_of,
            ccs_last_known_until=UnixTime(NOW + as_of + int(self._world.node_cap)),
        )  # fmt: skip


@functools.cache
def _named(consent_id: ConsentId) -> str:
    """Its token, as batches name it."""
    return encode_part(digest_of(consent_id)).decode()


def _token(call: Call) -> str:
    return parse_qs(call.body.decode())["token"][0]
