"""Many shares at once: by their tokens' digests in calls of up to 500, and singly what a digest does not settle.

Each share stays a question of its own: one item, one answer, one verdict. What a batch says is told to memory as one.
"""

import contextlib
import hmac
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import anyio
import msgspec

from engine.clock import UnixTime
from engine.guard.answers import Confirmation, is_bound_to
from engine.guard.asking import Asking
from engine.guard.config import GuardConfig
from engine.guard.decisions import MALFORMED, NOT_ACTIVE, Decision, Decisions, ItemContext
from engine.guard.memory import Memory
from engine.guard.outages import Outages
from engine.guard.questions import MAX_BATCH, MAX_ITEMS, BadShare, digest_of, size_of
from engine.guard.runs import Answered, Unanswered
from engine.guard.shares import KnownConsent, KnownToken, Reason, Share, Verdict
from engine.guard.verdicts import Verdicts
from engine.tokens import jws

_W = TypeVar("_W")

AT_ONCE: Final = 16  # calls under way for one batch
_LEARNT: Final = 16_384  # consents of tokens that were asked for once
_SAYS: Final = frozenset({Reason.CONSENTED, Reason.NOT_ACTIVE, Reason.NOT_COVERED, Reason.WRONG_CERTIFICATE})


class _Claims(msgspec.Struct, frozen=True):
    client_id: str  # the ATP
    cnf: Confirmation


_decode_claims = msgspec.json.Decoder(_Claims).decode


class _Asked(msgspec.Struct, frozen=True):
    """One share on its way. place: in what was asked."""

    place: int
    share: Share
    digest: bytes
    known: KnownToken | None


class _Round:
    """The shares of one question, and what has become of them. heard: see `Memory.heard`, before memory was asked."""

    __slots__ = ("asked", "found", "heard", "left", "new")

    def __init__(self, heard: int) -> None:
        self.heard = heard
        self.asked: list[_Asked] = []
        self.found: dict[int, Verdict] = {}  # by place
        self.left: list[_Asked] = []  # to be asked singly
        self.new: list[_Asked] = []  # consented to by a consent that no introspection of their token has shown


class Batches:
    """ask_singly: with the token itself; ask: the same, without a verdict where nobody answers.

    on_unanswered: what becomes of shares whose call was not answered.
    """

    def __init__(
        self,
        config: GuardConfig,
        asking: Asking,
        verdicts: Verdicts,
        outages: Outages,
        memory: Memory,
        ask_singly: Callable[[Share, bytes], Awaitable[Verdict]],
        ask: Callable[[Share, bytes], Awaitable[Verdict | Unanswered]],
        on_unanswered: Callable[[Sequence[tuple[Share, bytes]], Unanswered], Awaitable[list[Verdict]]],
    ) -> None:
        self._introspects_first = config.service.introspect_first
        self._asking = asking
        self._verdicts = verdicts
        self._outages = outages
        self._memory = memory
        self._ask_singly = ask_singly
        self._ask = ask
        self._on_unanswered = on_unanswered
        self._learnt: set[tuple[bytes, str]] = set()  # consents that were introspected for, or are about to be

    async def check(self, shares: Sequence[Share]) -> list[Verdict]:
        """Verdicts in the order of the shares."""
        now = _Round(self._memory.heard)
        self._read(shares, now)
        found = now.found
        if not self._outages.admits():
            judged = self._verdicts.in_outage([(each.share, each.digest) for each in now.asked])
            found |= {each.place: verdict for each, verdict in zip(now.asked, judged, strict=True)}
            return [found[place] for place in range(len(shares))]
        first, rest = self._sort_out(now.asked)
        await self._each(first, lambda each: self._single(each, found))
        await self._each(list(_cut(rest)), lambda chunk: self._chunk(chunk, now))
        await self._each(now.left, lambda each: self._single(each, found))
        await self._each(self._unlearnt(now), lambda each: self._learn(each, found))
        return [found[place] for place in range(len(shares))]

    async def again(self, asked: Sequence[tuple[Share, bytes]]) -> dict[int, Verdict] | Unanswered:
        """One attempt at all of them, which is in the budget: verdicts by place; the others are to be asked singly.

        All of them where the service refused the batch, and takes none for a while.
        """
        now = _Round(self._memory.heard)
        now.asked = [_Asked(place, *each, self._memory.look(each[1])) for place, each in enumerate(asked)]
        shares, digests = [each.share for each in now.asked], [each.digest for each in now.asked]
        with contextlib.suppress(BadShare):
            result = await self._asking.evaluate_again(shares, digests, names_certificates=not self._introspects_first)
            if isinstance(result, Answered):
                self._outages.answered(current=result.value.context.is_current)
                self._settle(now.asked, result.value, now)
            elif not self._asking.refuses_batches(result):
                return result
        return now.found

    def _read(self, shares: Sequence[Share], now: _Round) -> None:
        """Those that can be asked; the others have their verdict at once."""
        known: dict[bytes, KnownToken | None] = {}
        look, asked = self._memory.look, now.asked
        for place, share in enumerate(shares):
            try:
                digest = digest_of(share)
            except BadShare:
                now.found[place] = self._verdicts.bad()
                continue
            if digest not in known:
                known[digest] = look(digest)
            asked.append(_Asked(place, share, digest, known[digest]))

    def _sort_out(self, asked: list[_Asked]) -> tuple[list[_Asked], list[_Asked]]:
        """What is introspected first, and what goes into batches: of a token that is new here, all but the first."""
        if not self._introspects_first:
            return [], asked
        first: dict[bytes, _Asked] = {}
        for each in asked:
            if each.known is None:
                first.setdefault(each.digest, each)
        chosen = {each.place for each in first.values()}
        return list(first.values()), [each for each in asked if each.place not in chosen]

    async def _each(self, work: Sequence[_W], do: Callable[[_W], Awaitable[None]]) -> None:
        """All of it, a few at a time."""
        if len(work) == 1:
            await do(work[0])
            return
        queue = iter(work)

        async def worker() -> None:
            for item in queue:
                await do(item)

        async with anyio.create_task_group() as group:
            for _ in range(min(AT_ONCE, len(work))):
                group.start_soon(worker)

    async def _single(self, each: _Asked, found: dict[int, Verdict]) -> None:
        if self._outages.is_open:  # others of this batch, or of another, have found out meanwhile
            (found[each.place],) = self._verdicts.in_outage([(each.share, each.digest)])
            return
        found[each.place] = await self._ask_singly(each.share, each.digest)

    def _unlearnt(self, now: _Round) -> list[_Asked]:
        """Shares that a batch consented to by a consent which no introspection of their token has shown yet."""
        if not self._introspects_first:
            return []
        found: list[_Asked] = []
        for each in now.new:
            name = each.digest, now.found[each.place].consent_id or ""
            if name not in self._learnt:
                if len(self._learnt) == _LEARNT:
                    self._learnt.clear()
                self._learnt.add(name)
                found.append(each)
        return found

    async def _learn(self, each: _Asked, found: dict[int, Verdict]) -> None:
        """A token has several consents, and a decision is no last-known one: ask once so that an outage finds it."""
        name, was_asked = (each.digest, found[each.place].consent_id or ""), False
        try:
            if self._outages.is_open:
                return
            verdict = await self._ask(each.share, each.digest)
            was_asked = isinstance(verdict, Verdict) or not self._outages.is_open
            if isinstance(verdict, Verdict) and verdict.reason in _SAYS:
                found[each.place] = verdict
        finally:
            if not was_asked:  # for an outage, or because whoever waited has gone: the next batch asks
                self._learnt.discard(name)

    async def _chunk(self, chunk: list[_Asked], now: _Round) -> None:
        """One call; all of it is asked singly where the service takes no batches."""
        if self._outages.is_open:
            judged = self._verdicts.in_outage([(each.share, each.digest) for each in chunk])
            now.found |= {each.place: verdict for each, verdict in zip(chunk, judged, strict=True)}
            return
        if not self._asking.takes_batches:
            now.left += chunk
            return
        shares, digests = [each.share for each in chunk], [each.digest for each in chunk]
        try:
            result = await self._asking.evaluate(shares, digests, names_certificates=not self._introspects_first)
        except BadShare:
            now.left += chunk  # one of them; each then says for itself
            return
        if isinstance(result, Answered):
            self._outages.answered(current=result.value.context.is_current)
            self._settle(chunk, result.value, now)
            return
        if self._asking.refuses_batches(result):
            now.left += chunk
            return
        verdicts = await self._on_unanswered(list(zip(shares, digests, strict=True)), result)
        now.found |= {each.place: verdict for each, verdict in zip(chunk, verdicts, strict=True)}

    def _settle(self, chunk: list[_Asked], answer: Decisions, now: _Round) -> None:
        found = now.found
        refused: dict[bytes, KnownToken | None] = {}
        has_heard = self._memory.heard != now.heard
        is_as_it_was = answer.context.is_current and not has_heard
        is_doubtful = not answer.context.is_current and self._verdicts.may_have_forgotten(answer.context.ccs_as_of)
        for number, (each, decision) in enumerate(zip(chunk, answer.evaluations, strict=True)):
            context = decision.context
            if context.error is not None:
                now.left.append(each)
                continue
            evidence_id = f"{answer.context.decision_id}.{number}"
            if decision.permits:
                known = self._memory.look(each.digest) if has_heard else each.known
                if context.ccs_last_known_until is not None:
                    self._verdicts.heed_rest(context.ccs_last_known_until, answer.context.ccs_as_of)
                held = None if known is None else known.find(context.consent_id)
                if self._is_overtaken(held, context):
                    now.left.append(each)
                    continue
                is_over = not (held is not None and is_as_it_was) and self._is_over(each, decision, answer)
                over = Reason.NOT_ACTIVE if is_over else Reason.DEGRADED if is_doubtful and held is None else None
                found[each.place] = verdict = self._on_yes(each, decision, answer, evidence_id, over)
                if held is None and known is not None and verdict.allowed:
                    now.new.append(each)
                continue
            if context.code == NOT_ACTIVE:
                known = each.known or self._memory.look(each.digest)  # another of these shares may have made it known
                if self._is_about_token(each.share, known):
                    refused[each.digest] = known
            found[each.place] = self._verdicts.refusal(_reason(decision), evidence_id)
        if refused:
            self._verdicts.refuse_all(refused, UnixTime(answer.context.evaluated_at))

    def _is_about_token(self, share: Share, known: KnownToken | None) -> bool:
        """Whether a no to the token is no more than that: told the certificate, the service refuses a wrong one so."""
        return self._introspects_first or known is None or known.thumbprint == share.thumbprint

    def _is_overtaken(self, held: KnownConsent | None, context: ItemContext) -> bool:
        """Whether a later version of the consent was heard of than the yes is by: it may be narrower.

        A decision does not show its consent; the answer to the token itself does, and is cut to what was heard.
        """
        consent_id, version = context.consent_id or "", context.ccs_consent_version or 0
        if held is not None:
            return held.consent_version > version
        return self._verdicts.has_changed(consent_id, version) and not self._memory.has_ended(consent_id)

    def _is_over(self, each: _Asked, decision: Decision, answer: Decisions) -> bool:
        """Whether what was heard by now wins over a yes: an end always; over a `last_known` one also that the token was
        refused since, or that its ATP is stopped.
        """
        consent_id = decision.context.consent_id
        if consent_id is None or self._memory.has_ended(consent_id):
            return True
        if answer.context.is_current:
            return False
        if self._verdicts.is_refused(each.share, each.digest, answer.context.ccs_as_of):
            return True
        if each.known is not None:
            return self._memory.look(each.digest) is None
        claims = _claims_in(each.share.token)
        return claims is None or self._memory.is_suspended(claims.client_id)

    def _on_yes(
        self, each: _Asked, decision: Decision, answer: Decisions, evidence_id: str, over: Reason | None
    ) -> Verdict:
        """The service's yes, and our own second look: at the certificate, and at what we know ourselves.

        over: why that wins over the yes; None: it does not.
        """
        if not _is_bound(each):
            return self._verdicts.refusal(Reason.WRONG_CERTIFICATE, evidence_id)
        if over is not None:
            return self._verdicts.refusal(over, evidence_id)
        return Verdict(
            allowed=True,
            reason=Reason.CONSENTED,
            evidence_id=evidence_id,
            freshness=answer.context.ccs_freshness,
            as_of=UnixTime(answer.context.ccs_as_of),
            consent_id=decision.context.consent_id,
            consent_version=decision.context.ccs_consent_version,
        )


def _cut(asked: Sequence[_Asked]) -> Iterable[list[_Asked]]:
    """Into batches that the service takes."""
    chunk: list[_Asked] = []
    size = 0
    for each in asked:
        takes = size_of(each.share, chunk[0].share if chunk else None)
        if chunk and (len(chunk) == MAX_ITEMS or size + takes > MAX_BATCH):
            yield chunk
            chunk, size, takes = [], 0, size_of(each.share)
        chunk.append(each)
        size += takes
    if chunk:
        yield chunk


def _reason(decision: Decision) -> Reason:
    code = decision.context.code
    if code == MALFORMED:
        return Reason.BAD_REQUEST
    return Reason.NOT_ACTIVE if code == NOT_ACTIVE or (code is None and not decision.decision) else Reason.NOT_COVERED


def _is_bound(each: _Asked) -> bool:
    """Whether the token is bound to the certificate that was shown; what is known of a token is bound to nothing else.

    In constant time, as `is_bound_to`.
    """
    share, known = each.share, each.known
    if known is not None:
        return hmac.compare_digest(known.thumbprint, share.thumbprint)
    cnf = _bound_in(share.token)
    return cnf is not None and is_bound_to(cnf, share.thumbprint, share.dpop_jkt)


def _bound_in(token: str) -> Confirmation | None:
    """What a token says that it is bound to."""
    claims = _claims_in(token)
    return None if claims is None else claims.cnf


def _claims_in(token: str) -> _Claims | None:
    """What a token says of itself. The service has found a genuine token under its digest: it is this one."""
    parts = jws.split(token.encode())
    raw = None if parts is None else jws.decode_part(parts.payload)
    try:
        return None if raw is None else _decode_claims(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
