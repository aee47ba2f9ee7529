"""The introspection endpoint: a request of an EDP becomes an `Ask`, the decision's `Answer` becomes bytes.

Checks run in the order of the sheet (introspection, section 8): method, query, media type, form, caller, rate,
token, content; nothing of the token is looked at before the caller is known. Bound and records of an answer come
from one replica transaction, opened after the request's last byte, and the clocks are read inside it. Whenever
something had to be awaited, a new transaction is opened and everything is decided anew, so that no answer rests on
what was true before the waiting.
"""

import enum
import uuid
from collections.abc import Awaitable, Mapping
from typing import Final, Protocol, assert_never

import msgspec
import trio

from engine.clock import BootTime, Clock, Seconds, UnixTime
from engine.consent.records import (
    ClientId,
    ConsentId,
    ConsentKey,
    ConsentRecord,
    ParticipantRecord,
    PolicyRecord,
    Role,
)
from engine.decision.answers import INACTIVE, render
from engine.decision.decide import ASK_AGAIN, NOT_SERVING, decide
from engine.decision.freshness import Freshness, FreshnessState, freshness_of
from engine.decision.questions import (
    Active,
    Ask,
    ClaimFirst,
    ClaimResult,
    Inactive,
    LookFurther,
    Miss,
    Records,
    Step,
    Unavailable,
)
from engine.errors import Fault
from engine.listener.callers import Callers, NotServing
from engine.listener.forms import Form
from engine.listener.http1 import Request, Response
from engine.listener.introspection_request import AnswerForm, form_of_answer, read_ask, read_request
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.known import Known, KnownCaller, KnownYes, still_holds
from engine.listener.media import Head, HeadReader
from engine.listener.read_through import Found, ReadThrough, newer_consent
from engine.listener.refusals import Refusal, unavailable
from engine.listener.security import SecurityEventKind
from engine.listener.signed_answers import NO_SIGNING, Envelope, Signing
from engine.listener.tls import Peer
from engine.replica.reader import Moment, Replica, View
from engine.telemetry.tally import Tally
from engine.tokens.claims import VerifiedToken
from engine.tokens.grants import KnownDetails
from engine.tokens.memo import VerifiedTokens
from engine.tokens.verify import TokenRefusal, token_digest, verify

PATH: Final = b"/introspect"
MAX_KNOWN: Final = 8_192  # answers kept to be said again, about 2 KB each
MAX_DETAILS: Final = 16_384  # details of tokens, by their bytes; about 500 B each beside what the memo holds anyway
MAX_PASSES: Final = 4  # decide, look further, claim, decide; one more for a consent that moved meanwhile
LOOK_TIMEOUT: Final = Seconds(0.25)  # Redis answers in a millisecond
STEPS_TIMEOUT: Final = Seconds(1.0)  # all awaiting of one request; an EDP's own time-out is two seconds in all


class Outcome(enum.Enum):
    """What requests are counted by."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"


class Count(Protocol):
    """One more; a metric's own `inc`."""

    def __call__(self) -> object: ...


class Claims(Protocol):
    """Claims one-off consents through the feed service."""

    async def claim(self, consent_id: ConsentId, edp: ClientId, share_id: str) -> ClaimResult:
        """HELD, TAKEN or UNREACHABLE, within a time of its own. Raises nothing; cancelling it must be safe."""


class _Gathered(msgspec.Struct, frozen=True):
    """What the steps of one request have brought so far."""

    looked: tuple[ConsentKey, ...]
    found: Found
    claimed: ConsentKey | None = None
    claim: ClaimResult = ClaimResult.UNASKED


_NOTHING_YET: Final = _Gathered((), {})


class _Question(msgspec.Struct, frozen=True):
    """One request, as far as it can be told from the message."""

    form: Form
    head: Head
    peer: Peer
    digest: bytes  # of the token, b"" where none was sent; says nothing about it


class _Decided(msgspec.Struct, frozen=True):
    """A step, and what an answer that follows goes into; None: it stays plain."""

    step: Step
    envelope: Envelope | None = None
    body: bytes = b""  # of a yes, if it was written already


class Introspection:
    """`Handler` for `POST /introspect`. One per worker; keeps verified tokens and readings of heads between requests.

    meter_key: 32 bytes. boot_id: of this boot (`telemetry.host`).
    counts: one `Count` for each Outcome. signing: without it whoever must have a signed answer gets none.
    """

    def __init__(
        self,
        *,
        replica: Replica,
        memo: VerifiedTokens,
        meter_key: bytes,
        clock: Clock,
        boot_id: str,
        read_through: ReadThrough,
        claims: Claims,
        callers: Callers,
        keys: IssuerKeys,
        counts: Mapping[Outcome, Count],
        signing: Signing = NO_SIGNING,
    ) -> None:
        self._replica = replica
        self._memo = memo
        self._meter_key = meter_key
        self._clock = clock
        self._boot_id = boot_id
        self._read_through = read_through
        self._claims = claims
        self._callers = callers
        self._keys = keys
        self._signing = signing
        self._heads = HeadReader()
        self._known = Known(MAX_KNOWN, boot_id)
        self._details = KnownDetails(MAX_DETAILS)
        self.said_again = Tally()
        self.last_known = Tally()  # answers given in that state
        self._count_active = counts[Outcome.ACTIVE]
        self._count_inactive = counts[Outcome.INACTIVE]
        self._count_unavailable = counts[Outcome.UNAVAILABLE]
        self._count_refused = counts[Outcome.REFUSED]

    def __call__(self, request: Request, peer: Peer) -> Response | Awaitable[Response]:
        """Answer one request; what must be awaited is what the decision could not do without. Raises only bugs."""
        head = self._heads.read(request.headers)
        if head.forwards:
            self._callers.report_stray(peer)
        try:
            form = read_request(request, head)
            question = _Question(form, head, peer, token_digest(form.token) if form.token else b"")
            known = self._say_again(question)
            if known is not None:
                return known
            decided = self._decide_or_pass(question, _NOTHING_YET)
        except Refusal as refusal:
            self._count_refused()
            return refusal.response
        step = decided.step
        kind = type(step)  # a question of its class costs a third of `isinstance`, which asks their metaclass
        if kind is LookFurther or kind is ClaimFirst:
            return self._finish(step, question)  # type: ignore[arg-type] # mypy does not narrow by a kept type
        return self._respond(step, decided.envelope, decided.body)  # type: ignore[arg-type] # as above

    def _say_again(self, question: _Question) -> Response | Awaitable[Response] | None:
        """The short way: the same yes as before, where nothing it rests on has changed; None = go the long way.

        Raises Refusal.
        """
        try:
            found = self._look_up(question)
        except Fault:  # the replica or its keys cannot be read: the long way says what that means
            return None
        if found is None:
            return None
        caller, yes, freshness, now, boot = found
        form, head = question.form, question.head
        self._callers.take(caller, 1, boot)
        is_signed = form_of_answer(caller, head) is AnswerForm.SIGNED
        ask = read_ask(caller, form)[0] if form.asks_more else None
        envelope = self._signing.begin(caller.client_id, yes.token.digest, now) if is_signed else None
        if is_signed and envelope is None:
            return self._respond(NOT_SERVING, None)
        if ask is not None:
            step = decide(ask, yes.token, yes.records, freshness, now)
            if isinstance(step, (LookFurther, ClaimFirst)):
                return self._finish(step, question)
            if not isinstance(step, Active) or len(step.grants) != yes.shown:
                return self._respond(step, envelope)
        self._count_active()
        self.said_again()
        body = self._known.body(yes, freshness)
        return Response(200, body) if envelope is None else envelope.close(body)

    def _look_up(self, question: _Question) -> tuple[ParticipantRecord, KnownYes, Freshness, UnixTime, BootTime] | None:
        """Caller, yes and freshness, if all are known and still hold; the clocks are read after the replica."""
        known, peer = self._known, question.peer
        yes, caller = known.yes(question.digest), known.caller(peer.thumbprint)
        if yes is None or caller is None or yes.caller != caller.record.client_id:
            return None
        if caller.record.fallback_suspended is not None:  # what it is told of freshness is its own
            return None
        moment = self._replica.moment()
        now = self._clock.now()
        boot = self._clock.boot()
        freshness = known.freshness(moment, now, boot)
        if freshness is None or now >= caller.until or not yes.since <= now < yes.until:
            return None
        if question.form.client_id is not None and question.form.client_id != yes.caller:
            return None
        version = moment.version
        if (yes.version != version or caller.version != version) and not self._holds(yes, caller, peer, moment):
            return None
        return caller.record, yes, freshness, now, boot

    def _holds(self, yes: KnownYes, caller: KnownCaller, peer: Peer, moment: Moment) -> bool:
        """Whether caller and yes are as they were although something has changed; if so, of this moment from now on."""
        with self._replica.transaction() as view:
            if view.moment is not moment or view.participant_by_thumbprint(peer.thumbprint) is not caller.record:
                return False
            if yes.token.key_thumbprint not in self._keys.current(view).thumbprints or not still_holds(yes, view):
                return False
        yes.version = caller.version = moment.version
        return True

    async def _finish(self, step: LookFurther | ClaimFirst, question: _Question) -> Response:
        try:
            with trio.move_on_after(STEPS_TIMEOUT):
                return await self._go_on(step, question)
        except Refusal as refusal:
            self._count_refused()
            return refusal.response
        return self._respond(ASK_AGAIN, None)

    async def _go_on(self, step: LookFurther | ClaimFirst, question: _Question) -> Response:
        gathered = _NOTHING_YET
        for _ in range(1, MAX_PASSES):
            gathered = await self._perform(step, gathered)
            decided = self._decide_or_pass(question, gathered)
            if not isinstance(decided.step, (LookFurther, ClaimFirst)):
                return self._respond(decided.step, decided.envelope)
            step = decided.step
        return self._respond(ASK_AGAIN, None)

    async def _perform(self, step: LookFurther | ClaimFirst, gathered: _Gathered) -> _Gathered:
        if isinstance(step, LookFurther):
            return await self._look_further(step, gathered)
        return await self._claim(step, gathered)

    def _decide_or_pass(self, question: _Question, gathered: _Gathered) -> _Decided:
        try:
            return self._decide(question, gathered)
        except Fault:  # ours, or the replica cannot be read: either way no answer about the token
            return _PASSED

    def _decide(self, question: _Question, gathered: _Gathered) -> _Decided:
        """One pass: everything from one transaction, the clocks read inside it."""
        form, head, digest = question.form, question.head, question.digest
        with self._replica.transaction() as view:
            now = self._clock.now()
            policy, bound = view.moment.policy, view.bound
            boot = self._clock.boot()
            freshness = self._known.freshness(view.moment, now, boot) or freshness_of(
                bound, policy, boot_id=self._boot_id, boot=boot, now=now
            )
            if bound is None or freshness.state is FreshnessState.BLIND:
                return _PASSED
            caller = self._caller(view, question, freshness, now)
            if gathered is _NOTHING_YET:
                self._callers.take(caller, 1, boot)
            is_signed = form_of_answer(caller, head) is AnswerForm.SIGNED
            ask, presented = read_ask(caller, form)
            envelope = self._signing.begin(caller.client_id, digest, now) if is_signed else None
            if is_signed and envelope is None:
                return _PASSED
            token, is_known = self._token(view, caller, presented, digest, freshness, now)
            records = _records(view, policy, caller, token, gathered)
            step = decide(ask, token, records, freshness, now)
            if freshness.state is FreshnessState.LAST_KNOWN and isinstance(step, (Active, Inactive)):
                self.last_known()
            if not is_known or gathered is not _NOTHING_YET or not isinstance(step, Active):
                return _Decided(step, envelope)
            if ask.share is None:
                return _Decided(step, envelope, self._known.learn(step, records, view, now))
            whole = decide(Ask(ask.caller), token, records, freshness, now)  # the share may be another next time
            if isinstance(whole, Active):
                self._known.learn(whole, records, view, now)
            return _Decided(step, envelope)

    def _caller(self, view: View, question: _Question, freshness: Freshness, now: UnixTime) -> ParticipantRecord:
        """Whose certificate it is. Raises Refusal, NotServing."""
        peer, named = question.peer, question.form.client_id
        known = self._known.caller(peer.thumbprint)
        holds = known is not None and known.version == view.moment.version and now < known.until
        if known is not None and holds and named in (None, known.record.client_id):
            return known.record
        caller = self._callers.identify(view, peer, named, freshness, now)
        self._known.learn_caller(peer, view.moment.version, caller)
        return caller

    def _token(
        self,
        view: View,
        caller: ParticipantRecord,
        presented: bytes,
        digest: bytes,
        freshness: Freshness,
        now: UnixTime,
    ) -> tuple[VerifiedToken | None, bool]:
        """The token, if it is one of ours, and whether it was seen before.

        Raises NotServing when the keys to tell by are not here, or not all.
        """
        if caller.role is not Role.EDP:
            self._callers.report(SecurityEventKind.PROBE, caller, digest)
            return None, False
        keys = self._keys.current(view)
        token = self._memo.get(digest, keys, now)
        if token is not None:
            return token, True
        verified = verify(presented, keys, self._meter_key, now, digest, self._details)
        if isinstance(verified, VerifiedToken):
            self._memo.put(verified)
            return verified, False
        if verified is TokenRefusal.UNKNOWN_KEY and freshness.state is not FreshnessState.CURRENT:
            raise NotServing("the issuer may have changed its keys since this node was current")
        if verified.is_attack:
            self._callers.report(SecurityEventKind.FORGED_TOKEN, caller, digest, verified.value)
        return None, False

    async def _look_further(self, step: LookFurther, gathered: _Gathered) -> _Gathered:
        found: Found = {}
        with trio.move_on_after(LOOK_TIMEOUT):
            try:
                found = await self._read_through.find(step.keys)
            except Fault:
                found = {}  # nobody could be asked: the decision treats that as nothing found
        return msgspec.structs.replace(gathered, looked=gathered.looked + step.keys, found={**gathered.found, **found})

    async def _claim(self, step: ClaimFirst, gathered: _Gathered) -> _Gathered:
        result = await self._claims.claim(ConsentId(str(uuid.UUID(bytes=step.consent))), step.edp, step.share_id)
        return msgspec.structs.replace(gathered, claimed=step.consent, claim=result)

    def _respond(
        self, answer: Active | Inactive | Unavailable, envelope: Envelope | None, body: bytes = b""
    ) -> Response:
        match answer:
            case Inactive():
                self._count_inactive()
                return _INACTIVE if envelope is None else envelope.close(INACTIVE, answer)
            case Active():
                self._count_active()
                body = body or render(answer)
                return Response(200, body) if envelope is None else envelope.close(body)
            case Unavailable():
                self._count_unavailable()
                return unavailable(answer).response
            case _:
                assert_never(answer)


_PASSED: Final = _Decided(NOT_SERVING)
_INACTIVE: Final = Response(200, INACTIVE)


def _records(
    view: View, policy: PolicyRecord, caller: ParticipantRecord, token: VerifiedToken | None, gathered: _Gathered
) -> Records:
    """What the decision may know. Of a token that is not for this caller: nothing."""
    if token is None or token.claims.aud != caller.client_id:
        return Records(caller, None, (), False, policy)  # noqa: FBT003 - token_revoked
    return Records(
        caller,
        view.participant(token.claims.client_id),
        tuple([_consent(view, grant.key, gathered) for grant in token.grants]),
        view.token_revoked(token.revocation_key),
        policy,
        gathered.claim,
        gathered.claimed,
    )


def _consent(view: View, key: ConsentKey, gathered: _Gathered) -> ConsentRecord | Miss:
    """From the transaction; else what was found beyond it, if that is newer; else why there is none."""
    record = view.consent(key)
    if record is not None:
        return record
    if key not in gathered.looked:
        return Miss.UNREAD
    return newer_consent(gathered.found, key, view.bound) or Miss.UNKNOWN
