"""A worker's AuthZEN endpoint over a replica of its own; what Redis would say of tokens is laid out by hand."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from inspect import isawaitable
from pathlib import Path
from typing import Any

import trio

from admin.authorization.minting import Minted
from engine.clock import UnixTime
from engine.decision.evaluations import Outcome
from engine.errors import Fault
from engine.listener.callers import Callers
from engine.listener.digests import Found, TokenDigests
from engine.listener.evaluations import Evaluations, Rules
from engine.listener.http1 import Headers, Request, Response
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.tls import Peer
from engine.replica.reader import View
from engine.tokens.answer_keys import AnswerSigner
from engine.tokens.claims import VerifiedToken
from engine.tokens.keys import KeySet
from engine.tokens.memo import VerifiedTokens
from engine.tokens.token_records import TokenRecord, token_record
from engine.tokens.verify import verify
from tests.support.endpoint import Node, OwnReplica
from tests.support.pki import ISSUER, METER_KEY, METER_POINT, NOW, Pki
from tests.support.replicas import BOOT

HEAD: Headers = ((b"content-type", b"application/json"), (b"accept", b"application/json"))
IDENTIFIER = "https://localhost:8440"
SHARE = {"dataset_id": "hh-electricity-import", "from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}
ACTION = {"name": "share", "properties": SHARE}
RESOURCE = {"type": "meter_point", "id": METER_POINT}


def id_of(token: Minted | bytes) -> str:
    digest = token if isinstance(token, bytes) else token.digest
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def subject(token: Minted | bytes | str, **properties: str) -> dict[str, object]:
    named = token if isinstance(token, str) else id_of(token)
    return {"type": "access_token", "id": named} | ({"properties": properties} if properties else {})


class Lookups:
    """Redis, as far as records of tokens go."""

    def __init__(self) -> None:
        self.records: dict[bytes, TokenRecord] = {}
        self.in_doubt: frozenset[bytes] = frozenset()
        self.whole = True
        self.broken = self.silent = False
        self.asked: list[tuple[bytes, ...]] = []
        self.meanwhile = lambda: None

    async def find(self, digests: Sequence[bytes]) -> Found:
        self.asked.append(tuple(digests))
        await trio.lowlevel.checkpoint()
        if self.silent:
            await trio.sleep_forever()
        if self.broken:
            raise Fault("no Redis")
        self.meanwhile()
        found = {digest: self.records[digest] for digest in digests if digest in self.records}
        return Found(found, self.in_doubt, self.whole)


class CountedReplica(OwnReplica):
    """Counts the transactions."""

    transactions = 0

    def transaction(self) -> View:
        self.transactions += 1
        return super().transaction()


class EvaluationNode(Node):
    """`Node` with the evaluation endpoints beside introspection."""

    def __init__(self, directory: Path, pki: Pki, keys: bytes, at: UnixTime = NOW) -> None:
        super().__init__(directory, pki, keys, at)
        self.counted_replica = CountedReplica(self.store)
        self.lookups = Lookups()
        self.memo = VerifiedTokens(1000)
        self.items: Counter[Outcome] = Counter()
        self.drawn = 0
        self.key_is_published = True
        self.evaluations = self.make_evaluations()

    def make_evaluations(self, rules: Rules | None = None, signer: AnswerSigner | None = None) -> Evaluations:
        def counter(outcome: Outcome) -> Any:
            return lambda count: self.items.update({outcome: count})

        return Evaluations(
            replica=self.counted_replica,
            digests=TokenDigests(self.memo, self.lookups, 1000),
            meter_key=METER_KEY,
            clock=self.clock,
            boot_id=BOOT,
            read_through=self.beyond,
            claims=self.claims,
            callers=Callers(self.security),
            keys=IssuerKeys(ISSUER),
            counts={outcome: counter(outcome) for outcome in Outcome},
            rules=rules or Rules(IDENTIFIER),
            draw_id=self._draw,
            signer=None if signer is None else self._signer_of(signer),
        )

    def _signer_of(self, signer: AnswerSigner) -> Callable[[UnixTime], AnswerSigner | None]:
        return lambda _now: signer if self.key_is_published else None

    def _draw(self) -> str:
        self.drawn += 1
        return f"{self.drawn:04}"

    def verified(self, minted: Minted, at: UnixTime = NOW) -> VerifiedToken:
        found = verify(minted.token, KeySet.from_published(self.keys, ISSUER), METER_KEY, at)
        assert isinstance(found, VerifiedToken)
        return found

    def warm(self, *tokens: Minted) -> None:
        """The worker has verified these before."""
        for minted in tokens:
            self.memo.put(self.verified(minted))

    def record(self, *tokens: Minted) -> None:
        """The issuer left records of these in Redis."""
        for minted in tokens:
            self.lookups.records[minted.digest] = token_record(self.verified(minted))

    async def post(
        self,
        body: object,
        caller: str = "edp-1",
        *,
        single: bool = False,
        method: bytes = b"POST",
        target: bytes = b"",
        headers: Headers = HEAD,
        peer: Peer | None = None,
    ) -> Response:
        sent = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        path = b"/access/v1/evaluation" + (b"" if single else b"s")
        request = Request(method, target or path, headers, sent, keep_alive=True)
        handle = self.evaluations.single if single else self.evaluations.batch
        answer = handle(request, peer or self.peer(caller))
        return await answer if isawaitable(answer) else answer

    async def decide(self, body: object, caller: str = "edp-1", **options: Any) -> Any:
        """The JSON of a 200."""
        response = await self.post(body, caller, **options)
        assert response.status == 200, response.body
        return json.loads(response.body)

    async def contexts(self, body: dict[str, object], caller: str = "edp-1") -> list[dict[str, Any]]:
        """Each decision's context, with `decision` in it."""
        answer = await self.decide(body, caller)
        return [item["context"] | {"decision": item["decision"]} for item in answer["evaluations"]]
