"""Access evaluations (OpenID AuthZEN Authorization API 1.0): many questions of an EDP, answered in one message.

Checks run in the order of the sheet (batch decisions, section 6.5): the message, the caller, its allowance (counted in
items), then each item. All items are judged against one snapshot: what they need is read from one replica transaction,
each token and consent once, and the transaction is over before anything is awaited. Whenever something had to be
awaited (records of tokens, consents beyond the replica, claims), a new snapshot is taken and everything is judged
anew. Long batches let others have their turn after each chunk; when time is up, what is left is answered "ask again".
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import trio

from engine.clock import Clock, Seconds, UnixTime
from engine.consent.records import Answers, ClientId, ConsentId, ParticipantRecord, Role
from engine.decision.decide import freshness_for, refusal_of_caller
from engine.decision.evaluations import Circumstances, Outcome, Semantic, Verdict
from engine.decision.freshness import FreshnessState, freshness_of
from engine.decision.questions import ClaimFirst, ClaimResult
from engine.errors import Fault
from engine.listener.callers import Callers, NotServing
from engine.listener.digests import UNRESOLVED, Resolved, TokenDigests
from engine.listener.evaluation_answers import CALLER_NOT_ALLOWED, AnswerWriter, CountMany, refused
from engine.listener.evaluation_body import BadRequest
from engine.listener.evaluation_head import EvaluationHead, HeadJudge
from engine.listener.evaluation_judging import CHUNK, Judged, judge_all, judge_some
from engine.listener.evaluation_request import Batch, Item, RequestReader, Single
from engine.listener.evaluation_snapshot import Bearers, Gathered, Snapshot, of_nobody
from engine.listener.http1 import Request, Response
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.read_through import Found, ReadThrough
from engine.listener.refusals import Refusal
from engine.listener.security import SecurityEventKind
from engine.listener.tls import Peer
from engine.replica.reader import Replica
from engine.telemetry.tally import Tally
from engine.tokens.answer_keys import AnswerSigner

BATCH_TIMEOUT: Final = Seconds(1.0)  # for all of a batch; an EDP's own time-out is two seconds
LOOK_TIMEOUT: Final = Seconds(0.25)  # Redis answers in a millisecond
MAX_LOOKS: Final = 3  # tokens, then their consents; once more for what moved meanwhile
CLAIMS_AT_ONCE: Final = 16


class Claims(Protocol):
    """See `introspection.Claims`."""

    async def claim(self, consent_id: ConsentId, edp: ClientId, share_id: str) -> ClaimResult: ...


class Rules(msgspec.Struct, frozen=True):
    """Switches of the service. identifier: the PDP's, the origin of this listener; "" = it has none.

    explains: false reduces what a no says of the consent to `not_covered`.
    """

    identifier: str = ""
    explains: bool = True
    permits_first_permit: bool = False


class _Asked(msgspec.Struct, frozen=True):
    """One request, read."""

    items: Sequence[Item]
    semantic: Semantic
    is_batch: bool
    head: EvaluationHead
    peer: Peer
    body: bytes


class Evaluations:
    """`single` and `batch` are `Handler`s. One per worker; parts as for `Introspection`.

    counts: one for each Outcome. draw_id: a new, never repeated, short ASCII id. signer: gives the key that the issuer
    publishes now, if there is one; None = no signed answers here.
    """

    def __init__(
        self,
        *,
        replica: Replica,
        digests: TokenDigests,
        meter_key: bytes,
        clock: Clock,
        boot_id: str,
        read_through: ReadThrough,
        claims: Claims,
        callers: Callers,
        keys: IssuerKeys,
        counts: Mapping[Outcome, CountMany],
        rules: Rules,
        draw_id: Callable[[], str],
        signer: Callable[[UnixTime], AnswerSigner | None] | None = None,
    ) -> None:
        self._replica = replica
        self._digests = digests
        self._bearers = Bearers(digests, keys)
        self._writer = AnswerWriter(rules.identifier, counts, draw_id)
        self._meter_key = meter_key
        self._clock = clock
        self._boot_id = boot_id
        self._read_through = read_through
        self._claims = claims
        self._callers = callers
        self._rules = rules
        self._signer = signer
        self.last_known = Tally()  # answers given in that state
        self._heads = HeadJudge()
        self._reader = RequestReader(self._bearers.known)

    def single(self, request: Request, peer: Peer) -> Response | Awaitable[Response]:
        """`POST /access/v1/evaluation`. Raises nothing that is not a bug."""
        return self._answer_or_refuse(request, peer, self._reader.read_single)

    def batch(self, request: Request, peer: Peer) -> Response | Awaitable[Response]:
        """`POST /access/v1/evaluations`. Raises nothing that is not a bug."""
        return self._answer_or_refuse(request, peer, self._reader.read_batch)

    def _answer_or_refuse(
        self, request: Request, peer: Peer, read: Callable[[bytes], Single | Batch]
    ) -> Response | Awaitable[Response]:
        try:
            asked = self._read(request, peer, read)
            snapshot = self._look(asked, None)
            if len(asked.items) > CHUNK or not snapshot.is_whole:
                return self._go_on(asked, snapshot)
            judged = Judged()
            judge_some(asked.items, asked.semantic, snapshot, None, judged, len(asked.items))
            return self._go_on(asked, snapshot) if judged.claims else self._respond(asked, snapshot, judged.verdicts)
        except (BadRequest, Refusal, Fault) as fault:
            return refused(fault)

    def _read(self, request: Request, peer: Peer, read: Callable[[bytes], Single | Batch]) -> _Asked:
        head = self._heads.judge(request)
        if head.forwards:
            self._callers.report_stray(peer)
        said = read(request.body)
        if type(said) is Single:
            return _Asked((said.item,), Semantic.EXECUTE_ALL, False, head, peer, request.body)  # noqa: FBT003 - is_batch
        assert type(said) is Batch  # noqa: S101 - mypy does not narrow by type()
        if said.semantic is Semantic.PERMIT_ON_FIRST_PERMIT and not self._rules.permits_first_permit:
            raise BadRequest("permit_on_first_permit is not for sharing")
        return _Asked(said.items, said.semantic, True, head, peer, request.body)  # noqa: FBT003 - is_batch

    # One moment.

    def _look(self, asked: _Asked, gathered: Gathered | None) -> Snapshot:
        """Everything that the items need, from one transaction. Raises Refusal, Fault."""
        with self._replica.transaction() as view:
            now, boot = self._clock.now(), self._clock.boot()
            policy, bound = view.policy(), view.bound
            freshness = freshness_of(bound, policy, boot_id=self._boot_id, boot=boot, now=now)
            if bound is None or freshness.state is FreshnessState.BLIND:
                raise NotServing("this node has nothing to answer from")
            caller = self._callers.identify(view, asked.peer, None, freshness, now)
            if gathered is None:
                self._callers.take(caller, len(asked.items), boot)
            self._admit(caller)
            if refusal_of_caller(caller.client_id, of_nobody(caller, policy), freshness) is not None:
                raise NotServing("this node may not answer this caller now")
            signer = self._signer_for(caller, asked.head, now)
            told = freshness_for(caller, freshness)
            under = Circumstances(caller.client_id, told, now, self._meter_key, self._rules.explains)
            snapshot = Snapshot(under, caller, policy, bound, signer, {}, [], [])
            self._bearers.read(view, asked.items, snapshot, gathered)
            return snapshot

    def _admit(self, caller: ParticipantRecord) -> None:
        if caller.role is not Role.EDP:
            self._callers.report(SecurityEventKind.PROBE, caller)
            raise Refusal(403, CALLER_NOT_ALLOWED)

    def _signer_for(self, caller: ParticipantRecord, head: EvaluationHead, now: UnixTime) -> AnswerSigner | None:
        """Never a plain answer where a signed one was agreed (as introspection, rows 15 and 15a)."""
        must_sign = caller.answers is Answers.SIGNED
        if must_sign and not head.takes_signed:
            raise BadRequest("this caller is registered for signed answers")
        signer = None
        if self._signer is not None and (must_sign or head.asks_for_signed):
            signer = self._signer(now)
            if signer is None and (must_sign or not head.takes_json):
                raise NotServing("no key of this node's is published now")
        if signer is None and (must_sign or not head.takes_json):
            raise BadRequest("no form of answer that is accepted can be given", 406)
        return signer

    # What takes more than one look.

    async def _go_on(self, asked: _Asked, snapshot: Snapshot) -> Response:
        try:
            deadline = trio.current_time() + BATCH_TIMEOUT
            return await self._work(asked, snapshot, deadline)
        except (BadRequest, Refusal, Fault) as fault:
            return refused(fault)

    async def _work(self, asked: _Asked, snapshot: Snapshot, deadline: float) -> Response:
        gathered = Gathered()
        looks = 0
        while True:
            while not snapshot.is_whole and looks < MAX_LOOKS:
                looks += 1
                await self._search(snapshot, gathered, deadline)
                snapshot = self._look(asked, gathered)
            judged = await judge_all(asked.items, asked.semantic, snapshot, gathered, deadline)
            if not judged.claims or trio.current_time() >= deadline:
                break
            await self._claim(judged.claims, gathered, deadline)
            snapshot = self._look(asked, gathered)
        self._check_still_fresh(snapshot)
        return self._respond(asked, snapshot, judged.verdicts)

    def _check_still_fresh(self, snapshot: Snapshot) -> None:
        """No answer is given in a state that has passed while others had their turn."""
        now, boot = self._clock.now(), self._clock.boot()
        freshness = freshness_of(snapshot.bound, snapshot.policy, boot_id=self._boot_id, boot=boot, now=now)
        if freshness.state is not snapshot.under.freshness.state:
            raise NotServing("the node's knowledge has aged while this was judged")

    async def _search(self, snapshot: Snapshot, gathered: Gathered, deadline: float) -> None:
        """Tokens and consents that are not here. What cannot be asked for stays unresolved, or not found."""
        tokens: Mapping[str, Resolved] = {}
        found: Found = {}
        with trio.move_on_at(min(deadline, trio.current_time() + LOOK_TIMEOUT)):
            try:
                if snapshot.unknown_tokens:
                    tokens = await self._digests.look_up(snapshot.unknown_tokens)
                if snapshot.unread:
                    found = await self._read_through.find(list(dict.fromkeys(snapshot.unread)))
            except Fault:
                pass  # nobody could be asked
        for token_id in snapshot.unknown_tokens:
            gathered.tokens[token_id] = tokens.get(token_id, UNRESOLVED)
        gathered.looked.update(snapshot.unread)
        gathered.found = {**gathered.found, **found}

    async def _claim(self, claims: Mapping[int, ClaimFirst], gathered: Gathered, deadline: float) -> None:
        """Claim one-off consents, each once for each share, some at a time."""
        results = dict.fromkeys(claims.values(), ClaimResult.UNREACHABLE)
        limit = trio.CapacityLimiter(CLAIMS_AT_ONCE)

        async def make(step: ClaimFirst) -> None:
            async with limit:
                consent_id = ConsentId(str(uuid.UUID(bytes=step.consent)))
                results[step] = await self._claims.claim(consent_id, step.edp, step.share_id)

        with trio.move_on_at(deadline):
            async with trio.open_nursery() as nursery:
                for step in results:
                    nursery.start_soon(make, step)
        for index, step in claims.items():
            gathered.claims[index] = (step.consent, results[step])

    def _respond(self, asked: _Asked, snapshot: Snapshot, verdicts: list[Verdict]) -> Response:
        if snapshot.under.freshness.state is FreshnessState.LAST_KNOWN:
            self.last_known()
        return self._writer.respond(snapshot, verdicts, asked.body, is_batch=asked.is_batch)
