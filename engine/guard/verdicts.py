"""From what came back, or did not, to a verdict: memory is told, and evidence is kept, before anybody may share.

Nothing here waits for a network. An answer that says no is told to memory only where it is about the token: asked about
a share, the service says no to a share that the consent does not cover in the very same bytes.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from engine.clock import Clock, UnixTime
from engine.consent.records import AccessMode
from engine.guard.answers import Active, Inactive, Outcome, Unfit, is_bound_to, thumbprint_of
from engine.guard.covering import covers, read_entry
from engine.guard.evidence_words import Evidence, ShareEvidence
from engine.guard.fallback import Fallback, judge_in_outage, verdict_on_run
from engine.guard.memory import Memory, MemoryFull
from engine.guard.outages import Outages
from engine.guard.questions import digest_of
from engine.guard.runs import Unanswered
from engine.guard.shares import KnownConsent, KnownNo, KnownToken, Reason, Share, Verdict

# A token that is asked about again and again is written down anew this often, or at once where consents differ: what
# is known is older by as much at most, which shortens its use in an outage and nothing else.
REMEMBER_EVERY: Final = 60  # seconds
_NOES: Final = 16_384

# What a refusal by status means; every other 4xx, and a redirect, is the operator's business.
_BAD_QUESTION: Final = frozenset({400, 413, 414, 415, 422, 431})


class _No(msgspec.Struct, frozen=True):
    """The service said no of late. question: what was asked, where the no may be about that alone; see `_of`."""

    as_of: UnixTime
    question: tuple[object, ...] | None = None


class Verdicts:
    """new_id: an evidence id for what is not kept."""

    def __init__(
        self, memory: Memory, evidence: Evidence, outages: Outages, clock: Clock, new_id: Callable[[], str]
    ) -> None:
        self._memory = memory
        self._evidence = evidence
        self._outages = outages
        self._clock = clock
        self._new_id = new_id
        self._noes: OrderedDict[bytes, _No] = OrderedDict()  # by the token's digest

    def bad(self) -> Verdict:
        """A share that cannot be put into a question."""
        return self.refusal(Reason.BAD_REQUEST)

    def refusal(self, reason: Reason, evidence_id: str = "", retry_after: float | None = None) -> Verdict:
        """A no that rests on no answer."""
        return Verdict(allowed=False, reason=reason, evidence_id=evidence_id or self._new_id(), retry_after=retry_after)

    def by_now(self, share: Share, verdict: Verdict) -> Verdict:
        """A verdict that was kept for a while, after all that was heard meanwhile."""
        if not verdict.allowed or verdict.consent_id is None:
            return verdict
        reason = self._refusal_by_now(share, verdict, verdict.consent_id)
        return verdict if reason is None else self.refusal(reason, verdict.evidence_id)

    def _refusal_by_now(self, share: Share, verdict: Verdict, consent_id: str) -> Reason | None:
        has_changed = self.has_changed(consent_id, verdict.consent_version)
        if has_changed and self._memory.has_ended(consent_id):
            return Reason.NOT_ACTIVE
        if verdict.freshness != "current":
            if self._memory.look_for_no(digest_of(share)) is not None:
                return Reason.NOT_ACTIVE
            if self.may_have_forgotten(verdict.as_of or 0):
                return Reason.DEGRADED
        if not has_changed:
            return None
        known = self._memory.look(digest_of(share))
        held = None if known is None else known.find(consent_id)
        # What an answer showed is not kept of every token, and then only another answer tells what is left of it.
        return Reason.UNANSWERED if held is None else self._overtaken(share, held)

    def has_changed(self, consent_id: str, version: int | None) -> bool:
        """Whether an end of a consent, or a later version than a yes is by, was heard of."""
        said = KnownConsent(consent_id, version or 0, UnixTime(0), one_off=False, entry=b"")
        return self._memory.cut(said) is not said

    def on_answer(self, share: Share, digest: bytes, outcome: Outcome, evidence_id: str, at: UnixTime) -> Verdict:
        """What an introspection was answered, for this share. at: when it was asked."""
        if isinstance(outcome, Active):
            return self._on_yes(share, digest, outcome, evidence_id)
        if isinstance(outcome, Inactive):
            return self._on_no(share, digest, outcome, evidence_id, at)
        return self.refusal(Reason.NOT_ACTIVE if isinstance(outcome, Unfit) else Reason.NO_ANSWER, evidence_id)

    def unanswered(self, asked: Sequence[tuple[Share, bytes]], result: Unanswered) -> list[Verdict]:
        """No node answered a question about these shares: is it an outage, and if so, what is known of them?"""
        reason = verdict_on_run([attempt.failure for attempt in result.failures], result.failing)
        if reason is None and result.exhausted:
            self._outages.begin(result.failures)
            return self.in_outage(asked)
        if reason in (None, Reason.UNANSWERED) and not self._outages.is_closed:
            return self.in_outage(asked)  # others have found out meanwhile
        if reason is Reason.REFUSED_CALLER and result.status in _BAD_QUESTION:
            reason = Reason.BAD_REQUEST
        retry_after = result.retry_after or None if reason is Reason.SLOW_DOWN else None
        return [self.refusal(reason or Reason.UNANSWERED, retry_after=retry_after) for _ in asked]

    def in_outage(self, asked: Sequence[tuple[Share, bytes]]) -> list[Verdict]:
        """Nobody is asked: by what is known. Evidence is on disk when this returns."""
        outage = self._outages.now()
        judged = []
        for share, digest in asked:
            known = self._memory.look(digest)
            if known is not None and self._is_before_a_no(share, digest, known.as_of):
                known = None  # a no that the disk had no room for
            no = self._known_no(share, digest) if known is None else None
            judged.append((share, digest, known, no, judge_in_outage(share, known, outage, no)))
        entries = [
            self._entry(share, digest, known, fallback, outage.now)
            for share, digest, known, _, fallback in judged
            if known is not None
        ]
        try:
            if entries and not self._outages.is_on_record:
                raise MemoryFull("that there is an outage found no room")
            ids = iter(self._evidence.record_all(entries) if entries else [])
        except MemoryFull:  # what cannot be shown later is not done
            return [
                self._fallen_back(known or no, Fallback(_without_evidence(fallback)), "")
                for *_, known, no, fallback in judged
            ]
        self._outages.shared(sum(entry.allowed for entry in entries))
        return [
            self._fallen_back(known or no, fallback, "" if known is None else next(ids))
            for *_, known, no, fallback in judged
        ]

    def _known_no(self, share: Share, digest: bytes) -> KnownNo | None:
        """A no that memory has, or one of late about a token that was never known as active here."""
        no = self._memory.look_for_no(digest)
        late = self._noes.get(digest)
        if no is None and late is not None and late.question in (None, _of(share)):
            return KnownNo(late.as_of)
        return no

    def refuse(self, digest: bytes, known: KnownToken | None, as_of: UnixTime) -> None:
        """The service said no to a token."""
        self.refuse_all({digest: known}, as_of)

    def refuse_all(self, refused: Mapping[bytes, KnownToken | None], as_of: UnixTime) -> None:
        """The same of several. A token of which nothing is known takes no room on disk."""
        for digest in refused:
            self._note(digest, _No(as_of))
        known = [digest for digest, token in refused.items() if token is not None]
        if known:
            # Nothing is shared on what is known while the disk is full: evidence could not be kept either.
            with contextlib.suppress(MemoryFull), self._memory.together():
                for digest in known:
                    self._memory.refuse(digest, as_of)

    def heed_rest(self, last_known_until: int, as_of: int) -> None:
        """A yes that may be kept for no outage at all says so of every other that was given by then."""
        if last_known_until <= as_of:
            with contextlib.suppress(MemoryFull):  # as above
                self._memory.rest(UnixTime(as_of))

    def _note(self, digest: bytes, no: _No) -> None:
        self._noes[digest] = no
        self._noes.move_to_end(digest)
        if len(self._noes) > _NOES:
            self._noes.popitem(last=False)

    def _on_yes(self, share: Share, digest: bytes, answer: Active, evidence_id: str) -> Verdict:
        members = answer.members
        self.heed_rest(members.ccs_last_known_until, members.ccs_as_of)
        shown = _consents(answer)
        before = self._memory.look(digest)
        if before is not None and self._is_before_a_no(share, digest, before.as_of):
            before = None  # a no that the disk had no room for
        is_kept = self._remember(digest, answer, shown, before)
        if not is_bound_to(members.cnf, share.thumbprint, share.dpop_jkt):
            return self.refusal(Reason.WRONG_CERTIFICATE, evidence_id)
        covering = next((consent for consent in shown if covers(share, consent.entry)), None)
        if covering is None:  # the guard's own comparison stands beside the service's
            return self.refusal(Reason.NOT_COVERED, evidence_id)
        held = None if before is None else before.find(covering.consent_id)  # after all that was heard by now
        if held is None:
            if self._is_over(share, digest, answer, covering, is_kept=is_kept):
                return self.refusal(Reason.NOT_ACTIVE, evidence_id)
            if not answer.is_current and self.may_have_forgotten(members.ccs_as_of):
                return self.refusal(Reason.DEGRADED, evidence_id)
            held = self._memory.cut(covering)
        if held is not None and held.consent_version > covering.consent_version:  # the answer is from before that
            refusal = self._overtaken(share, held)
            if refusal is not None:
                return self.refusal(refusal, evidence_id)
        return Verdict(
            allowed=True,
            reason=Reason.CONSENTED,
            evidence_id=evidence_id,
            freshness=members.ccs_freshness,
            as_of=UnixTime(members.ccs_as_of),
            consent_id=covering.consent_id,
            consent_version=members.ccs_consent_version,
        )

    def _overtaken(self, share: Share, held: KnownConsent) -> Reason | None:
        """Why a later version of the consent than the answer shows allows no such share; None: it does."""
        if self._clock.now() >= held.expires_at:
            return Reason.NOT_ACTIVE
        return None if covers(share, held.entry) else Reason.NOT_COVERED

    def is_refused(self, share: Share, digest: bytes, as_of: int) -> bool:
        """Whether the service has said no, or the ATP is stopped, as against a yes that is true as of an instant."""
        return self._is_before_a_no(share, digest, as_of) or self._memory.look_for_no(digest) is not None

    def may_have_forgotten(self, as_of: int) -> bool:
        """Whether a memory that was lost may have known that what was true then has ended: nobody says it again.

        Not asked of what is known here as active: none of that is from before the loss.
        """
        return min(as_of, self._clock.now()) <= self._memory.lost_until()

    def _is_over(self, share: Share, digest: bytes, answer: Active, shown: KnownConsent, *, is_kept: bool) -> bool:
        """Whether what was heard wins over this yes: an end always; over a `last_known` one also a no of another node,
        that the ATP is suspended, or that the consent was changed to something that may not be this any more.
        """
        if self._memory.has_ended(shown.consent_id):
            return True
        if answer.is_current:
            return False
        if self._memory.is_suspended(answer.members.client_id) or self._memory.cut(shown) is None:
            return True
        if self.is_refused(share, digest, answer.members.ccs_as_of):
            return True
        if not is_kept:  # then that memory knows nothing of the token says nothing
            return False
        known = self._memory.look(digest)
        return known is None or known.find(shown.consent_id) is None

    def _on_no(self, share: Share, digest: bytes, answer: Inactive, evidence_id: str, at: UnixTime) -> Verdict:
        if answer.code is not None:
            return self.refusal(Reason.NOT_COVERED, evidence_id)
        known = self._memory.look(digest)
        if known is None:  # of a token, or of a share that its consent does not cover: nobody can tell
            late = self._noes.get(digest)
            self._note(digest, _No(at, None if late is not None and late.question is None else _of(share)))
        elif any(covers(share, consent.entry) for consent in known.consents):
            self.refuse(digest, known, at)
        return self.refusal(Reason.NOT_ACTIVE, evidence_id)

    def _remember(
        self, digest: bytes, answer: Active, shown: tuple[KnownConsent, ...], before: KnownToken | None
    ) -> bool:
        """Beside what earlier answers showed of the token's other consents, each with its own age. False: not kept."""
        members = answer.members
        thumbprint = thumbprint_of(members.cnf)
        # Marks of what is missing, and of what was refused, are by our clock: where that is behind the node's, an
        # answer of before a mark must not look like one of after it.
        as_of = UnixTime(min(members.ccs_as_of, self._clock.now()))
        if thumbprint is None or not shown or self._is_before_a_no(None, digest, as_of):
            return False
        if before is not None and before.thumbprint == thumbprint and self._is_as_good(before, answer, shown, as_of):
            return True
        known = KnownToken(
            digest=digest,
            client_id=members.client_id,
            thumbprint=thumbprint,
            token_expires_at=UnixTime(members.exp),
            answered_at=answer.answered_at,
            as_of=as_of,
            last_known_until=UnixTime(members.ccs_last_known_until),
            consents=shown if before is None else _beside(shown, before),
            answer=answer.raw,
        )
        try:
            return self._memory.remember(known)
        except MemoryFull:
            return False  # the answer is good for this share all the same

    def _is_before_a_no(self, share: Share | None, digest: bytes, as_of: int) -> bool:
        """Whether the service has said no since, to the token or to this very share; None: to any share of it."""
        no = self._noes.get(digest)
        if no is None or as_of > no.as_of:
            return False
        return share is None or no.question in (None, _of(share))

    def _is_as_good(self, before: KnownToken, answer: Active, shown: tuple[KnownConsent, ...], as_of: UnixTime) -> bool:
        """Whether what is kept, of the same certificate, says the same, allows no more, and is nearly as new."""
        members = answer.members
        if as_of - before.as_of >= REMEMBER_EVERY or self._memory.missing_since() is not None:
            return False
        if members.ccs_last_known_until < before.last_known_until or members.exp < before.token_expires_at:
            return False
        if members.client_id != before.client_id:
            return False
        kept = {consent.consent_id: consent for consent in before.consents}
        return all(kept.get(consent.consent_id) == consent for consent in shown)

    def _entry(
        self, share: Share, digest: bytes, known: KnownToken | None, fallback: Fallback, now: UnixTime
    ) -> ShareEvidence:
        consent = fallback.consent
        return ShareEvidence(
            at=float(now),
            digest=digest,
            allowed=fallback.allowed,
            reason=fallback.reason,
            outage_since=self._outages.since or 0.0,
            client_id="" if known is None else known.client_id,
            consent_id="" if consent is None else consent.consent_id,
            consent_version=0 if consent is None else consent.consent_version,
            dataset_id=share.dataset_id,
            data_from=share.data_from,
            data_to=share.data_to,
            share_id=share.share_id or "",
            answered_at=UnixTime(0) if known is None else known.answered_at,
            as_of=UnixTime(0) if known is None else known.as_of,
            answer=b"" if known is None else known.answer,
            attempts=self._outages.attempts,
        )

    def _fallen_back(self, known: KnownToken | KnownNo | None, fallback: Fallback, evidence_id: str) -> Verdict:
        consent = fallback.consent
        return Verdict(
            allowed=fallback.allowed,
            reason=fallback.reason,
            evidence_id=evidence_id or self._new_id(),
            as_of=None if known is None else known.as_of,
            consent_id=None if consent is None else consent.consent_id,
            consent_version=None if consent is None else consent.consent_version,
            retry_after=self._outages.until_probe(),
        )


def _of(share: Share) -> tuple[object, ...]:
    """What the service is asked about a share beside its token."""
    return share.dataset_id, share.mpxn, share.data_from, share.data_to, share.purpose_code, share.share_id


def _without_evidence(fallback: Fallback) -> Reason:
    return Reason.DEGRADED if fallback.allowed else fallback.reason


def _consents(answer: Active) -> tuple[KnownConsent, ...]:
    """The entries that can be read; others cover nothing. The version is that of the first entry shown."""
    found = []
    for place, entry in enumerate(answer.members.authorization_details):
        raw = bytes(entry)
        read = read_entry(raw)
        if read is not None:
            version = answer.members.ccs_consent_version if place == 0 else 0
            one_off = read.grant.access_mode is AccessMode.ONE_OFF
            found.append(KnownConsent(read.grant.detail.consent_id, version, read.grant.expires_at, one_off, raw))
    return tuple(found)


def _beside(shown: tuple[KnownConsent, ...], before: KnownToken) -> tuple[KnownConsent, ...]:
    """What an answer shows, and what earlier ones showed of other consents."""
    ids = {consent.consent_id for consent in shown}
    others = tuple(
        msgspec.structs.replace(
            consent,
            as_of=consent.as_of or before.as_of,
            last_known_until=consent.last_known_until or before.last_known_until,
        )
        for consent in before.consents
        if consent.consent_id not in ids
    )
    return tuple(sorted(shown + others, key=lambda consent: consent.consent_id))
