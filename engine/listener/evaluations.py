"""Access evaluations (OpenID AuthZEN Authorization API 1.0): many questions of an EDP, answered in one message.

Checks run in the order of the sheet (batch decisions, section 6.5): the message, the caller, its allowance (counted in
items), then each item. All items are judged against one snapshot: what they need is read from one replica transaction,
each token and consent once, and the transaction is over before anything is awaited. Whenever something had to be
awaited (records of tokens, consents beyond the replica, claims), a new snapshot is taken and everything is judged
anew. Long batches let others have their turn after each chunk; when time is up, what is left is answered "ask again".
"""

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import trio

from engine.clock import Clock, Seconds, UnixTime
from engine.consent.records import (
    Answers,
    ClientId,
    ConsentId,
    ConsentKey,
    ConsentRecord,
    ParticipantRecord,
    PolicyRecord,
    Role,
)
from engine.decision.decide import refusal_of_caller
from engine.decision.evaluations import (
    ASK_AGAIN,
    ASK_WITH_TOKEN,
    FLAWED,
    Circumstances,
    Evidence,
    Flaw,
    Outcome,
    Question,
    Semantic,
    Standing,
    Verdict,
    ends_with,
    judge,
    quick_yes,
    standing,
)
from engine.decision.freshness import Bound, FreshnessState, freshness_of
from engine.decision.questions import ClaimFirst, ClaimResult, Miss, Records
from engine.errors import Fault
from engine.listener.callers import Callers, NotServing
from engine.listener.digests import UNRESOLVED, Resolved, TokenDigests, Unresolved
from engine.listener.evaluation_head import SIGNED, EvaluationHead, HeadJudge
from engine.listener.evaluation_request import BadRequest, Batch, Item, RequestReader, Single
from engine.listener.http1 import Request, Response
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.known import still_holds
from engine.listener.read_through import Found, ReadThrough, newer_consent
from engine.listener.refusals import Refusal
from engine.listener.security import SecurityEventKind
from engine.listener.tls import Peer
from engine.replica.reader import Replica, View
from engine.tokens.answer_keys import AnswerSigner
from engine.tokens.claims import VerifiedToken
from engine.tokens.jws import encode_part
from engine.tokens.keys import KeySet

SINGLE_PATH: Final = b"/access/v1/evaluation"
BATCH_PATH: Final = b"/access/v1/evaluations"
METADATA_PATH: Final = b"/.well-known/authzen-configuration"
TYPE_OF_SIGNED: Final = "ccs-decision+jwt"

CHUNK: Final = 50  # items judged between two turns of everybody else
BATCH_TIMEOUT: Final = Seconds(1.0)  # for all of a batch; an EDP's own time-out is two seconds
LOOK_TIMEOUT: Final = Seconds(0.25)  # Redis answers in a millisecond
MAX_LOOKS: Final = 3  # tokens, then their consents; once more for what moved meanwhile
CLAIMS_AT_ONCE: Final = 16
MAX_KEPT: Final = 32_768  # readings of tokens, kept while what they rest on is the same


class CountMany(Protocol):
    """So many more; a tally's own `add`."""

    def __call__(self, count: int, /) -> object: ...


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


class _Bearer(msgspec.Struct, frozen=True, gc=False):
    """What is known of one token of the batch, for one caller, while it is judged."""

    token: VerifiedToken | None
    records: Records
    standing: Standing | None = None


class _Kept(msgspec.Struct, gc=False):
    """A `known.Ground` of a token that stands for something: valid in the version, and in later ones that agree."""

    version: int
    caller: ClientId
    token: VerifiedToken
    records: Records
    values: tuple[bytes | None, ...]
    bearer: _Bearer


class _Gathered(msgspec.Struct):
    """What awaiting has brought so far. claims: by item."""

    tokens: dict[str, Resolved] = {}
    looked: set[ConsentKey] = set()
    found: Found = {}
    claims: dict[int, tuple[ConsentKey, ClaimResult]] = {}


class _Snapshot(msgspec.Struct, frozen=True):
    """One moment, and what is still to be looked for."""

    under: Circumstances
    caller: ParticipantRecord
    policy: PolicyRecord
    bound: Bound
    signer: AnswerSigner | None  # None: a plain answer
    bearers: dict[str, _Bearer | Unresolved]
    unknown_tokens: list[str]
    unread: list[ConsentKey]

    @property
    def is_whole(self) -> bool:
        return not self.unknown_tokens and not self.unread


class _Asked(msgspec.Struct, frozen=True):
    """One request, read."""

    items: Sequence[Item]
    semantic: Semantic
    is_batch: bool
    head: EvaluationHead
    peer: Peer
    body: bytes


class _Judged(msgspec.Struct):
    """How far a run has come. claims: what items wait for, by their index."""

    verdicts: list[Verdict] = []
    claims: dict[int, ClaimFirst] = {}
    ended: bool = False


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
        self._meter_key = meter_key
        self._clock = clock
        self._boot_id = boot_id
        self._read_through = read_through
        self._claims = claims
        self._callers = callers
        self._keys = keys
        self._counts = [(outcome, counts[outcome]) for outcome in Outcome if outcome is not Outcome.PERMITTED]
        self._count_permitted = counts[Outcome.PERMITTED]
        self._rules = rules
        self._draw_id = draw_id
        self._signer = signer
        self._heads = HeadJudge()
        self._bearers: dict[str, _Kept] = {}
        self._reader = RequestReader(self._bearers)

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
            judged = _Judged()
            self._judge_some(asked, snapshot, None, judged, len(asked.items))
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

    def _look(self, asked: _Asked, gathered: _Gathered | None) -> _Snapshot:
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
            if refusal_of_caller(caller.client_id, _of_nobody(caller, policy), freshness) is not None:
                raise NotServing("this node may not answer this caller now")
            signer = self._signer_for(caller, asked.head, now)
            under = Circumstances(caller.client_id, freshness, now, self._meter_key, self._rules.explains)
            snapshot = _Snapshot(under, caller, policy, bound, signer, {}, [], [])
            self._read_tokens(view, asked.items, snapshot, gathered)
            return snapshot

    def _admit(self, caller: ParticipantRecord) -> None:
        if caller.role is not Role.EDP:
            self._callers.report(SecurityEventKind.PROBE, caller)
            raise Refusal(403, _text("caller not allowed"))

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

    def _read_tokens(self, view: View, items: Iterable[Item], snapshot: _Snapshot, gathered: _Gathered | None) -> None:
        """Fill the snapshot: each token and its consents once."""
        version, caller = view.moment.version, snapshot.under.caller
        keys = self._keys.current(view)
        kept, bearers = self._bearers.get, snapshot.bearers
        for item in items:
            if type(item) is Flaw:
                continue
            token_id = item.token_id  # type: ignore[union-attr] # mypy does not narrow by type()
            if token_id in bearers:
                continue
            known = kept(token_id)
            if (
                known is not None
                and known.caller == caller
                and (known.version == version or _holds(known, view, snapshot.caller, keys))
            ):
                known.version = version
                bearers[token_id] = known.bearer
            else:
                self._read_token(view, token_id, snapshot, keys, gathered)

    def _read_token(
        self, view: View, token_id: str, snapshot: _Snapshot, keys: KeySet, gathered: _Gathered | None
    ) -> None:
        token = self._resolve(token_id, snapshot, keys, gathered)
        if token is UNRESOLVED:
            snapshot.bearers[token_id] = UNRESOLVED
            return
        records = _records(view, snapshot, token, gathered)
        missing = (
            [grant.key for grant, found in zip(token.grants, records.consents, strict=True) if found is Miss.UNREAD]
            if token is not None and records.consents
            else []
        )
        snapshot.unread.extend(missing)
        snapshot.bearers[token_id] = _Bearer(token, records)
        if token is not None and all(type(found) is not Miss for found in records.consents) and gathered is None:
            bearer = _Bearer(token, records, standing(token, records, snapshot.under))
            snapshot.bearers[token_id] = bearer
            values = tuple([view.consent_value(grant.key) for grant in token.grants])
            kept = _Kept(view.moment.version, snapshot.under.caller, token, records, values, bearer)
            self._keep(token_id, kept)

    def _keep(self, token_id: str, kept: _Kept) -> None:
        if len(self._bearers) >= MAX_KEPT:
            self._bearers.clear()
        self._bearers[token_id] = kept

    def _resolve(self, token_id: str, snapshot: _Snapshot, keys: KeySet, gathered: _Gathered | None) -> Resolved:
        token: Resolved = self._digests.known(token_id, keys, snapshot.under.now)
        if token is None:
            if gathered is None or token_id not in gathered.tokens:
                snapshot.unknown_tokens.append(token_id)
                return UNRESOLVED
            token = gathered.tokens[token_id]
        if type(token) is VerifiedToken and token.key_thumbprint not in keys.thumbprints:
            # The issuer may have published the key since this node was current.
            return None if snapshot.under.freshness.state is FreshnessState.CURRENT else UNRESOLVED
        return token

    # Judging.

    def _judge_some(
        self, asked: _Asked, snapshot: _Snapshot, gathered: _Gathered | None, judged: _Judged, stop: int
    ) -> None:
        """Judge on to an index, or to the item that ends the batch."""
        verdicts, bearers, under = judged.verdicts, snapshot.bearers, snapshot.under
        ends_early = asked.semantic is not Semantic.EXECUTE_ALL
        for item in asked.items[len(verdicts) : stop]:
            verdict: Verdict | ClaimFirst | None
            if type(item) is Question:
                bearer = bearers[item.token_id]
                known = bearer.standing if type(bearer) is _Bearer else None
                verdict = None if known is None else quick_yes(item, known, under)
                if verdict is not None:
                    pass
                elif type(bearer) is _Bearer:
                    records = bearer.records
                    if gathered is not None:
                        records = _with_claim(records, gathered.claims.get(len(verdicts)))
                    verdict = judge(item, bearer.token, records, under)
                else:
                    verdict = ASK_WITH_TOKEN
            else:
                verdict = FLAWED[item]  # type: ignore[index] # mypy does not narrow by type()
            if type(verdict) is ClaimFirst:
                judged.claims[len(verdicts)] = verdict
                judged.ended = ends_early  # whether the next ones are judged at all hangs on it
                verdict = ASK_AGAIN
            verdicts.append(verdict)  # type: ignore[arg-type] # as above
            if ends_early and (judged.ended or ends_with(asked.semantic, verdict)):  # type: ignore[arg-type] # as above
                judged.ended = True
                return

    async def _go_on(self, asked: _Asked, snapshot: _Snapshot) -> Response:
        try:
            deadline = trio.current_time() + BATCH_TIMEOUT
            return await self._work(asked, snapshot, deadline)
        except (BadRequest, Refusal, Fault) as fault:
            return refused(fault)

    async def _work(self, asked: _Asked, snapshot: _Snapshot, deadline: float) -> Response:
        gathered = _Gathered()
        looks = 0
        while True:
            while not snapshot.is_whole and looks < MAX_LOOKS:
                looks += 1
                await self._search(snapshot, gathered, deadline)
                snapshot = self._look(asked, gathered)
            judged = await self._judge(asked, snapshot, gathered, deadline)
            if not judged.claims or trio.current_time() >= deadline:
                break
            await self._claim(judged.claims, gathered, deadline)
            snapshot = self._look(asked, gathered)
        self._check_still_fresh(snapshot)
        return self._respond(asked, snapshot, judged.verdicts)

    async def _judge(self, asked: _Asked, snapshot: _Snapshot, gathered: _Gathered, deadline: float) -> _Judged:
        """All items, in chunks. Those that time does not suffice for are to be asked again."""
        judged, count = _Judged(), len(asked.items)
        while not judged.ended and len(judged.verdicts) < count:
            if judged.verdicts:
                await trio.lowlevel.checkpoint()
                if trio.current_time() >= deadline:
                    left = count - len(judged.verdicts) if asked.semantic is Semantic.EXECUTE_ALL else 1
                    judged.verdicts.extend([ASK_AGAIN] * left)
                    break
            self._judge_some(asked, snapshot, gathered, judged, len(judged.verdicts) + CHUNK)
        return judged

    def _check_still_fresh(self, snapshot: _Snapshot) -> None:
        """No answer is given in a state that has passed while others had their turn."""
        now, boot = self._clock.now(), self._clock.boot()
        freshness = freshness_of(snapshot.bound, snapshot.policy, boot_id=self._boot_id, boot=boot, now=now)
        if freshness.state is not snapshot.under.freshness.state:
            raise NotServing("the node's knowledge has aged while this was judged")

    # What must be awaited.

    async def _search(self, snapshot: _Snapshot, gathered: _Gathered, deadline: float) -> None:
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

    async def _claim(self, claims: Mapping[int, ClaimFirst], gathered: _Gathered, deadline: float) -> None:
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

    # The answer.

    def _respond(self, asked: _Asked, snapshot: _Snapshot, verdicts: list[Verdict]) -> Response:
        self._count(verdicts)
        evidence = Evidence(f"d_{self._draw_id()}", snapshot.under.now, snapshot.under.freshness)
        body = evidence.render_batch(verdicts) if asked.is_batch else evidence.render_single(verdicts[0])
        if snapshot.signer is None:
            return Response(200, body)
        claims = {
            "iss": self._rules.identifier,
            "aud": snapshot.under.caller,
            "iat": snapshot.under.now,
            "req": encode_part(hashlib.sha256(asked.body).digest()).decode(),
            "result": msgspec.Raw(body),
        }
        return Response(200, snapshot.signer.sign(TYPE_OF_SIGNED, msgspec.json.encode(claims)), SIGNED)

    def _count(self, verdicts: list[Verdict]) -> None:
        outcomes = [verdict.outcome for verdict in verdicts]
        permitted = outcomes.count(Outcome.PERMITTED)
        self._count_permitted(permitted)
        if permitted < len(outcomes):
            for outcome, count in self._counts:
                count(outcomes.count(outcome))


def _holds(known: _Kept, view: View, caller: ParticipantRecord, keys: KeySet) -> bool:
    """Whether nothing that was read of a token has changed, although something has. False also where it is not told."""
    return (
        known.records.edp is caller
        and not known.records.token_revoked
        and known.token.key_thumbprint in keys.thumbprints
        and still_holds(known, view)
    )


def _of_nobody(caller: ParticipantRecord, policy: PolicyRecord) -> Records:
    return Records(caller, None, (), False, policy)  # noqa: FBT003 - token_revoked


def _with_claim(records: Records, claimed: tuple[ConsentKey, ClaimResult] | None) -> Records:
    if claimed is None:
        return records
    return msgspec.structs.replace(records, claimed=claimed[0], claim=claimed[1])


def _records(view: View, snapshot: _Snapshot, token: VerifiedToken | None, gathered: _Gathered | None) -> Records:
    """What the decision may know. Of a token that is not for this caller: nothing."""
    if token is None or token.claims.aud != snapshot.under.caller:
        return _of_nobody(snapshot.caller, snapshot.policy)
    consents: list[ConsentRecord | Miss] = []
    for grant in token.grants:
        record = view.consent(grant.key)
        if record is not None:
            consents.append(record)
        elif gathered is None or grant.key not in gathered.looked:
            consents.append(Miss.UNREAD)
        else:
            consents.append(newer_consent(gathered.found, grant.key, view.bound) or Miss.UNKNOWN)
    return Records(
        snapshot.caller,
        view.participant(token.claims.client_id),
        tuple(consents),
        view.token_revoked(token.revocation_key),
        snapshot.policy,
    )


_TEXTS: Final = {400: "caller not known", 401: "caller not known", 429: "too many evaluations"}


def _text(message: str) -> bytes:
    return msgspec.json.encode(message)


def refused(fault: BadRequest | Refusal | Fault) -> Response:
    """The answer to a request that is refused as a whole: its body is a JSON string, for people."""
    if isinstance(fault, BadRequest):
        headers = ((b"Allow", fault.allow),) if fault.allow else ()
        return Response(fault.status, _text(fault.text), headers=headers, close=fault.status == 413)
    if isinstance(fault, Refusal):
        response = fault.response
        status = 401 if response.status == 400 else response.status  # no certificate is no known caller either
        text = _text(_TEXTS[response.status]) if response.status in _TEXTS else response.body
        return msgspec.structs.replace(response, status=status, body=text)
    return Response(503, _text("temporarily unavailable"), headers=((b"Retry-After", b"5"),))


def metadata(identifier: str) -> Callable[[Request, Peer], Response]:
    """Handler of the PDP's metadata. identifier: https, without a path, so that nothing follows the well-known one."""
    members = {
        "policy_decision_point": identifier,
        "access_evaluation_endpoint": identifier + SINGLE_PATH.decode(),
        "access_evaluations_endpoint": identifier + BATCH_PATH.decode(),
    }
    answer = Response(200, msgspec.json.encode(members))
    not_allowed = Response(405, _text("method not allowed"), headers=((b"Allow", b"GET, HEAD"),))

    def handle(request: Request, _peer: Peer) -> Response:
        return answer if request.method in (b"GET", b"HEAD") else not_allowed

    return handle
