"""Puts a guard's questions to the service and reads what comes back, in the form that this EDP is registered for."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from engine.clock import Clock
from engine.guard import decisions
from engine.guard.answers import PLAIN, SIGNED, Active, Asked, Doubt, NoAnswer, Outcome, read_plain, read_signed
from engine.guard.calls import Call, Judge, Judged, Reply, Transport, Worth
from engine.guard.client import Client
from engine.guard.config import AnswerForm, GuardConfig
from engine.guard.decisions import MAX_DECISIONS, Decisions
from engine.guard.evidence_words import Failure
from engine.guard.kept_keys import KeyShelf
from engine.guard.keys import AnswerKeys
from engine.guard.questions import (
    EVALUATIONS,
    FORM,
    INTROSPECT,
    JSON,
    batch,
    digest_of,
    introspection,
    nobodys_share,
    probe,
)
from engine.guard.runs import Answered, Unanswered
from engine.guard.shares import Share
from engine.telemetry import logs
from engine.telemetry.floods import Floods
from engine.telemetry.guard_calls import ALARMS

SINGLY: Final = 300.0  # seconds that a service which takes no batches is asked singly
# No such path or method; no answer in this form, as of a node without a public URL; not implemented.
_NO_BATCHES: Final = frozenset({404, 405, 406, 501})

_UNKNOWN_KEY: Final = NoAnswer(Doubt.KEY)

_log = logs.logger("guard")


class Introspected(msgspec.Struct, frozen=True):
    """An answer, and the name of the call that brought it."""

    outcome: Outcome
    request_id: str

    @property
    def is_current(self) -> bool:
        """Whether the node said so; a no does not say."""
        return isinstance(self.outcome, Active) and self.outcome.is_current


class Asking:
    """One for each guard. new_id: names of calls. shelf: where the issuer's keys outlive the process."""

    def __init__(
        self,
        config: GuardConfig,
        client: Client,
        transport: Transport,
        clock: Clock,
        new_id: Callable[[], bytes],
        shelf: KeyShelf | None = None,
    ) -> None:
        self._config = config
        self._client = client
        self._clock = clock
        self._new_id = new_id
        self._floods = Floods()
        self._singly_until = float("-inf")
        self._is_signed = config.answers is AnswerForm.SIGNED
        point = config.service.decision_point
        self._decision_points = (point,) if point else config.service.addresses
        self._keys = AnswerKeys(config.jwks_url, config.issuer, transport, clock.boot, shelf)

    async def keep_keys(self) -> None:
        """For ever: see `AnswerKeys.keep_fresh`; nothing where answers are plain."""
        if self._is_signed:
            await self._keys.keep_fresh()

    async def introspect(self, share: Share, digest: bytes) -> Answered[Introspected] | Unanswered:
        """Ask about one share with its token. Raises BadShare."""
        body = introspection(share, self._config.client_id)
        await self._have_keys()
        return await self._client.ask(self._call(body), self._judge(digest))

    async def introspect_again(self, share: Share, digest: bytes) -> Answered[Introspected] | Unanswered:
        """One attempt more, which the caller has in the budget (`Client.take_retry`)."""
        body = introspection(share, self._config.client_id)
        return await self._client.ask_again(self._call(body), self._judge(digest))

    async def evaluate(
        self, shares: Sequence[Share], digests: Sequence[bytes], *, names_certificates: bool
    ) -> Answered[Decisions] | Unanswered:
        """Ask about many shares by their tokens' digests. Raises BadShare."""
        call, judge = self._batch(shares, digests, names_certificates=names_certificates)
        await self._have_keys()
        return await self._client.ask(call, judge)

    async def evaluate_again(
        self, shares: Sequence[Share], digests: Sequence[bytes], *, names_certificates: bool
    ) -> Answered[Decisions] | Unanswered:
        """See `introspect_again`. Raises BadShare."""
        call, judge = self._batch(shares, digests, names_certificates=names_certificates)
        return await self._client.ask_again(call, judge)

    @property
    def takes_batches(self) -> bool:
        """Whether the service is to be asked about many shares at once: not for a while after it refused that."""
        return self._clock.boot() >= self._singly_until

    def refuses_batches(self, missed: Unanswered) -> bool:
        """Whether a node refused the batch and not its caller; kept in mind for SINGLY, and logged once then."""
        if missed.kinds[-1:] != [Failure.REFUSED] or missed.status not in _NO_BATCHES:
            return False
        if self.takes_batches:
            _log.warning("batches_refused", status=missed.status, address=missed.failures[-1].address)
        self._singly_until = self._clock.boot() + SINGLY
        return True

    def _batch(
        self, shares: Sequence[Share], digests: Sequence[bytes], *, names_certificates: bool
    ) -> tuple[Call, Judge[Decisions]]:
        body = batch(shares, digests, names_certificates=names_certificates)

        async def judge(reply: Reply) -> Judged[Decisions] | None:
            read = self._read_decisions(reply, len(shares), body)
            if read == _UNKNOWN_KEY and await self._keys.refresh():
                read = self._read_decisions(reply, len(shares), body)
            if isinstance(read, NoAnswer):
                self._raise_alarm(read.doubt)
                return None
            context = read.context
            worth = Worth.CURRENT if context.is_current else Worth.LAST_KNOWN
            return Judged(read, worth, context.ccs_freshness, float(context.ccs_as_of))

        accept = decisions.SIGNED if self._is_signed else JSON
        call = Call(EVALUATIONS, body, self._new_id(), JSON, accept, max_body=2 * MAX_DECISIONS, is_optional=True)
        return call, judge

    async def probe(self) -> bool:
        """Ask once about a token that nobody issued, to see whether anybody answers."""
        body, digest = probe(self._config.client_id, self._new_id())
        await self._have_keys()
        return await self._client.probe(self._call(body), self._judge(digest))

    async def is_current(self) -> bool:
        """Ask, as a share does, about a token that nobody issued; whether a node says that it is current.

        No, where the service takes no batches: an introspection answered no does not say. The next share finds out.
        """
        if not self.takes_batches:
            return False
        share = nobodys_share(self._new_id(), self._clock.now())
        result = await self.evaluate([share], [digest_of(share)], names_certificates=False)
        if isinstance(result, Answered):
            return result.value.context.is_current
        self.refuses_batches(result)
        return False

    def _call(self, body: bytes) -> Call:
        return Call(INTROSPECT, body, self._new_id(), FORM, SIGNED if self._is_signed else PLAIN)

    def _judge(self, digest: bytes) -> Judge[Introspected]:
        asked = Asked(self._config.issuer, self._config.client_id, digest)

        async def judge(reply: Reply) -> Judged[Introspected] | None:
            outcome = self._read(reply, asked)
            if outcome == _UNKNOWN_KEY and await self._keys.refresh():
                outcome = self._read(reply, asked)
            if isinstance(outcome, NoAnswer):
                self._raise_alarm(outcome.doubt)
                return None
            answer = Introspected(outcome, reply.request_id.decode())
            if not isinstance(outcome, Active):
                return Judged(answer, Worth.CURRENT)
            worth = Worth.CURRENT if outcome.is_current else Worth.LAST_KNOWN
            return Judged(answer, worth, outcome.members.ccs_freshness, float(outcome.members.ccs_as_of))

        return judge

    def _raise_alarm(self, doubt: Doubt) -> None:
        """What came was no answer: somebody may sit on the line."""
        ALARMS.labels(doubt).inc()
        left_out = self._floods.admit(doubt, self._clock.boot())
        if left_out is not None:
            _log.warning("security_event", kind=f"answer_{doubt}", left_out=left_out)

    def _read(self, reply: Reply, asked: Asked) -> Outcome:
        now = self._clock.now()
        if not self._is_signed:
            return read_plain(reply.media_type, reply.body, asked, now)
        keys = self._keys.current
        return _UNKNOWN_KEY if keys is None else read_signed(reply.media_type, reply.body, asked, keys, now)

    def _read_decisions(self, reply: Reply, count: int, asked: bytes) -> Decisions | NoAnswer:
        now = self._clock.now()
        if not self._is_signed:
            return decisions.read_plain(reply.media_type, reply.body, count, now)
        keys = self._keys.current
        if keys is None:
            return _UNKNOWN_KEY
        question = decisions.Question(self._decision_points, self._config.client_id, asked, count)
        return decisions.read_signed(reply.media_type, reply.body, question, keys, now)

    async def _have_keys(self) -> None:
        """Before the first question, so that no node's time is spent on waiting for the issuer."""
        if self._is_signed and self._keys.current is None:
            await self._keys.refresh()
