"""The guard: asked before every share, it asks the service, and knows what to do when nobody answers.

    async with Guard(config, memory=memory, evidence=evidence) as guard:
        verdict = await guard.check(share)

Runs on trio and on asyncio. One object for the process; `check` may be called by any number of tasks at once. What it
was told it keeps in `memory`; before it lets a share be made on what was known, it writes that down as `evidence`.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType

import anyio
import msgspec

from engine.clock import BootTime, Clock, UnixTime
from engine.guard.asking import Asking, Introspected
from engine.guard.batches import Batches
from engine.guard.calls import Transport
from engine.guard.circuit import PROBE_EVERY, PROBE_JITTER
from engine.guard.client import CallCounts, Client
from engine.guard.closing import Closing
from engine.guard.config import GuardConfig
from engine.guard.contacts import Contact
from engine.guard.evidence_words import Evidence
from engine.guard.http1_client import Http1Transport, client_tls
from engine.guard.joining import Again, Joining
from engine.guard.kept_keys import KeyShelf
from engine.guard.memory import Memory
from engine.guard.names import Names
from engine.guard.outages import Outages
from engine.guard.questions import BadShare, digest_of
from engine.guard.runs import Answered, Unanswered
from engine.guard.shares import Reason, Share, Verdict
from engine.guard.verdicts import Verdicts
from engine.telemetry.guard_calls import PROBES
from engine.telemetry.host import SystemClock


class GuardStatus(msgspec.Struct, frozen=True):
    """How things stand. Times: seconds since 1970. circuit: closed, buffering, probing, suspended or ramping.

    missing_since: pushed events are known to be missing since then, so that there is no fallback.
    """

    circuit: str
    outage_since: float | None
    outage_ends_at: float | None  # the cap: nothing is shared on what is known from then on
    next_probe_at: float | None
    missing_since: float | None
    addresses: tuple[str, ...]
    calls: CallCounts | None = None
    contacts: tuple[Contact, ...] = ()  # what came of the newest ones, by address


class Guard:
    """May this share be made? Asks the service, and in an outage what was known.

    shelf: where the issuer's answer keys outlive the process; None: nowhere. transport, clock, draw: for tests; None:
    real sockets, this machine's clocks, chance.
    """

    def __init__(
        self,
        config: GuardConfig,
        *,
        memory: Memory,
        evidence: Evidence,
        shelf: KeyShelf | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._memory = memory
        self._shelf = shelf
        self._transport = transport
        self._clock = clock or SystemClock()
        names = Names()
        self._outages = Outages(config.policy, memory, evidence, self._clock, draw)
        self._verdicts = Verdicts(memory, evidence, self._outages, self._clock, names.text)
        self._closing = Closing(memory, self._clock, config.events.reorder_wait)
        self._draw = draw
        self._names = names
        self._stack = AsyncExitStack()
        self._client: Client | None = None
        self._is_closed = False

    async def __aenter__(self) -> "Guard":
        """Read certificates and keys. Asks nobody yet. Raises BadConfig."""
        service = self._config.service
        if self._transport is None:
            tls = client_tls(service.ca_file, service.certificate_file, service.key_file)
            self._transport = Http1Transport(tls, service.max_connections)
        clock = self._clock
        self._client = Client(
            service.addresses,
            self._transport,
            now=clock.boot,
            wall=lambda: float(clock.now()),
            hedge=service.hedge,
            draw=self._draw,
            new_id=self._names.draw,
            is_open=lambda: self._is_closed or self._outages.is_open,
        )
        self._asking = Asking(self._config, self._client, self._transport, clock, self._names.draw, self._shelf)
        group = await self._stack.enter_async_context(anyio.create_task_group())
        self._group = group
        self._batches = Batches(
            self._config,
            self._asking,
            self._verdicts,
            self._outages,
            self._memory,
            self._one,
            self._ask,
            self._unanswered,
        )
        again = Again(self._batches.again, self._one_again, lambda: self._asking.takes_batches)
        self._joining = Joining(self._client, self._verdicts, self._outages, again, group, clock.boot, self._draw)
        group.start_soon(self._client.run)
        group.start_soon(self._probe)
        group.start_soon(self._asking.keep_keys)
        group.start_soon(self._find_end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop looking after anything and close all connections. What the block raised comes through as it is.

        Shares that other tasks are still asking about, or will ask about, are told no: `unanswered`.
        """
        self._is_closed = True
        self._joining.close()
        self._group.cancel_scope.cancel()
        try:
            await self._stack.__aexit__(None, None, None)
        finally:
            if self._transport is not None:
                with anyio.CancelScope(shield=True):  # bounded: each connection's goodbye is
                    await self._transport.aclose()

    async def check(self, share: Share) -> Verdict:
        """One share. Takes up to 9.4 seconds where nobody answers, then says so. Raises nothing but cancellation.

        Longer where nodes say 429: as long as they say, up to a minute each time. Longer by up to 5.5 seconds where a
        hole in what was pushed has just been found.
        """
        verdict = await self._check(share)
        if verdict.reason is Reason.DEGRADED and await self._closing.wait():
            verdict = await self._check(share)
        return self._unless_closed(verdict) if self._is_closed else verdict

    async def check_many(self, shares: Sequence[Share]) -> list[Verdict]:
        """Many shares, each a question of its own, in calls of up to 500; verdicts in their order. Raises as `check`.

        The first share of a token that was never introspected here is asked with the token itself
        (`service.introspect-first`), and so is what could not be told from the token's digest.
        """
        if self._is_closed:
            return [self._verdicts.refusal(Reason.UNANSWERED) for _ in shares]
        heard = self._memory.heard
        verdicts = await self._batches.check(shares)
        degraded = [place for place, verdict in enumerate(verdicts) if verdict.reason is Reason.DEGRADED]
        if degraded and await self._closing.wait():
            anew = await self._batches.check([shares[place] for place in degraded])
            for place, verdict in zip(degraded, anew, strict=True):
                verdicts[place] = verdict
        if self._has_closed():
            return [self._unless_closed(verdict) for verdict in verdicts]
        if self._memory.heard == heard:
            return verdicts
        # Something was, while others of these shares were still asked about, for seconds maybe.
        return [self._verdicts.by_now(share, verdict) for share, verdict in zip(shares, verdicts, strict=True)]

    def answered_at(self) -> BootTime | None:
        """When the service last answered with what was true then, by the boot clock; see `GuardEvents`."""
        return self._outages.current_at

    def status(self) -> GuardStatus:
        """A frozen record of now."""
        outages, since = self._outages, self._outages.since
        until, missing = outages.until_probe(), self._memory.missing_since()
        return GuardStatus(
            circuit=outages.status().state,
            outage_since=since,
            outage_ends_at=None if since is None else since + self._config.policy.outage_cap,
            next_probe_at=None if until is None else self._clock.now() + until,
            missing_since=None if missing is None else float(missing),
            addresses=self._config.service.addresses,
            calls=None if self._client is None else self._client.counts(),
            contacts=() if self._client is None else self._client.contacts.now(),
        )

    def note_time(self) -> None:
        """Keep on record how long an outage has lasted. Call it every few seconds: waits for a disk once a minute."""
        self._outages.note_time()

    def renew(self) -> None:
        """Read the certificate and its key again, for connections to come. Raises BadConfig, and then keeps the old."""
        service = self._config.service
        if isinstance(self._transport, Http1Transport):
            self._transport.renew(client_tls(service.ca_file, service.certificate_file, service.key_file))

    def _has_closed(self) -> bool:
        """Whether it was closed meanwhile."""
        return self._is_closed

    def _unless_closed(self, verdict: Verdict) -> Verdict:
        """No yes any more: memory and evidence may be closed, too, so that nobody can tell what was heard."""
        return self._verdicts.refusal(Reason.UNANSWERED, verdict.evidence_id) if verdict.allowed else verdict

    async def _check(self, share: Share) -> Verdict:
        if self._is_closed:
            return self._verdicts.refusal(Reason.UNANSWERED)
        try:
            digest = digest_of(share)
        except BadShare:
            return self._verdicts.bad()
        if not self._outages.admits():
            return self._verdicts.in_outage([(share, digest)])[0]
        return await self._one(share, digest)

    async def _one(self, share: Share, digest: bytes) -> Verdict:
        """Ask with the token itself, whatever the circuit says."""
        result = await self._ask(share, digest)
        return result if isinstance(result, Verdict) else (await self._unanswered([(share, digest)], result))[0]

    async def _ask(self, share: Share, digest: bytes) -> Verdict | Unanswered:
        """The same, without a verdict where nobody answers."""
        at = self._clock.now()
        try:
            result = await self._asking.introspect(share, digest)
        except BadShare:
            return self._verdicts.bad()
        return self._on_answer(share, digest, result.value, at) if isinstance(result, Answered) else result

    async def _one_again(self, share: Share, digest: bytes) -> Verdict | Unanswered:
        """One attempt more with the token itself."""
        at = self._clock.now()
        result = await self._asking.introspect_again(share, digest)
        return self._on_answer(share, digest, result.value, at) if isinstance(result, Answered) else result

    def _on_answer(self, share: Share, digest: bytes, answered: Introspected, at: UnixTime) -> Verdict:
        self._outages.answered(current=answered.is_current)
        return self._verdicts.on_answer(share, digest, answered.outcome, answered.request_id, at)

    async def _unanswered(self, asked: Sequence[tuple[Share, bytes]], result: Unanswered) -> list[Verdict]:
        return await self._joining.settle(asked, result)

    async def _probe(self) -> None:
        """For ever: whenever the circuit wants to know whether the service is there again."""
        while True:
            await self._outages.wait_probe()
            good = await self._asking.probe()
            PROBES.labels("good" if good else "failed").inc()
            self._outages.probed(good=good)

    async def _find_end(self) -> None:
        """For ever: ask ourselves whether an outage is over, as a share would, where no share comes that finds out."""
        while True:
            await self._outages.wait_unended()
            self._outages.answered(current=await self._asking.is_current())
            await anyio.sleep(PROBE_EVERY + PROBE_JITTER * (2 * self._draw() - 1))
