"""Deliberate mistakes of the code, each of which the checker has to find."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final
from unittest import mock

import anyio
import msgspec
import trio

from admin.ledger.outbox import Book, Draft
from engine.events import sets, verification
from engine.events.sets import drawn_jti
from engine.events.verification import VerifiedEvent
from engine.guard import answers, fallback, joining, rules, verdicts
from engine.guard.client import Client
from engine.guard.event_keys import EventKeys
from engine.guard.event_store import EventStore
from engine.guard.evidence_words import Failure
from engine.guard.fallback import Outage
from engine.guard.healing import Healing
from engine.guard.intake import Intake
from engine.guard.ordering import Chain, Place
from engine.guard.outages import Outages
from engine.guard.polling import AT_ONCE, Polling
from engine.guard.retry import counts_as_outage
from engine.guard.shares import KnownConsent, KnownToken, Reason, Verdict
from engine.guard.verdicts import Verdicts
from engine.pusher import attempt
from engine.pusher.lease import Tenure
from engine.pusher.schedule import Attempt, Judgement, Trouble, judge
from engine.pusher.service import Delivery, Fate
from engine.pusher.signing import Signing
from tests.world.simulation.mistake import Mistake, Patch, replaced

LATER: Final = 2.0  # seconds
SOON: Final = 0.5


async def _take_first(self: Intake, compact: bytes, keys: EventKeys) -> None:
    arrival = await self._arrival(compact, keys)

    async def keep() -> None:
        await anyio.sleep(LATER)
        await self._take([arrival], refuse=False)

    trio.lowlevel.spawn_system_task(keep)


async def _not_yet(self: Intake, _kept: int) -> None:
    self.settle()


async def _soon(self: Intake, of: Any = Intake.apply_due) -> None:
    await anyio.sleep(SOON)
    await of(self)


def _applied_later(stack: ExitStack) -> None:
    replaced(Intake, "_apply_up_to", _not_yet)(stack)
    replaced(Intake, "apply_due", _soon)(stack)


def _left_undone(self: EventStore, *where: Any, of: Any = EventStore.__init__) -> None:
    of(self, *where)
    self.applied([jti for (jti,) in self._file.all("SELECT jti FROM events WHERE compact IS NOT NULL")])


def _noted_first(self: EventStore, limit: int = 1_000, of: Any = EventStore.due) -> list[VerifiedEvent]:
    due: list[VerifiedEvent] = of(self, limit)
    self.applied([event.jti for event in due])
    return due


async def _ack_first(self: Polling, poll_url: str) -> int:
    polled = await self._transmitter.poll(poll_url, [], AT_ONCE, {})
    while polled.sets:
        following = await self._transmitter.poll(poll_url, list(polled.sets), AT_ONCE, {})
        await self._intake.take_page(polled.sets, self._keys)
        polled = following
    return 0


def _end_if_newer(
    known: KnownToken, consent: Any, party: rules.KeptParty | None, of: Any = rules.in_force
) -> KnownToken | None:
    def heard(consent_id: str) -> rules.KeptConsent | None:
        kept: rules.KeptConsent | None = consent(consent_id)
        return None if kept is not None and kept.ended and kept.at <= known.as_of else kept

    result: KnownToken | None = of(known, heard, party)
    return result


def _no_prev(self: Chain, seq: int, prev: int) -> Place:  # noqa: ARG001 - that it is not looked at is the mistake
    if not seq:
        return Place.NONE
    return Place.OLD if seq <= self.last_seq else Place.NEXT


def _never_missing(self: Outages, of: Any = Outages.now) -> Outage:
    outage: Outage = of(self)
    return msgspec.structs.replace(outage, missing_since=None)


def _no_clock(self: Outages, of: Any = Outages.now) -> Outage:
    outage: Outage = of(self)
    return msgspec.structs.replace(outage, lasts=0.0)


def _revived(
    kept: rules.KeptConsent | None, version: int, entry: bytes | None, expires_at: Any
) -> rules.KeptConsent | None:
    if kept is not None and kept.version >= version and not kept.ended:
        return None
    return rules.KeptConsent(version, ended=False, entry=entry, expires_at=expires_at)


def _done_anyway(attempt: Attempt) -> Judgement:
    return Judgement(Fate.DONE) if isinstance(attempt.result, Trouble) else judge(attempt)


def _one_off_too(stack: ExitStack) -> None:
    def shown(answer: Any, of: Any = None) -> tuple[KnownConsent, ...]:
        found: tuple[KnownConsent, ...] = of(answer)
        return tuple(msgspec.structs.replace(one, one_off=False) for one in found)

    before = verdicts._consents
    replaced(verdicts, "_consents", lambda answer: shown(answer, before))(stack)


def _no_fence(stack: ExitStack) -> None:
    replaced(Tenure, "holds", lambda _: True)(stack)
    replaced(Tenure, "left", property(lambda _: 1_000.0))(stack)


def _forgetful(
    self: Outages, policy: Any, memory: Any, evidence: Any, clock: Any, draw: Any, of: Any = Outages.__init__
) -> None:
    of(self, policy, memory, evidence, clock, draw)
    self.since = None


def _short_chain(self: Book, stored: Any, fact: Any, of: Any = Book._of_fact) -> list[Draft]:
    """A book that runs ahead does not move chains over what it leaves out."""
    if self._left_out is not None and self._lane(fact) is self._left_out:
        return []
    drafts: list[Draft] = of(self, stored, fact)
    return drafts


def _drawn(*_: Any) -> str:
    return drawn_jti(os.urandom(16))


async def _signed_anew(self: Signing, delivery: Delivery) -> bytes:
    await trio.lowlevel.checkpoint()
    return self._make(delivery)


def _listing_wins(self: Healing, consents: Any, parties: Any, of: Any = Healing._apply) -> None:
    with mock.patch.object(rules, "changed", _as_listed):
        of(self, consents, parties)


async def _whole_snapshot(self: Healing) -> int:
    pages = [await self._transmitter.snapshot(None)]
    while pages[-1].cursor is not None:
        pages.append(await self._transmitter.snapshot(pages[-1].cursor))
    await anyio.sleep(5 * LATER)
    for page in pages:
        self._apply(page.consents, page.parties)
    await self._intake.on_disk(self._store.known_to, pages[-1].as_of_seq, pages[-1].incarnation)
    return pages[-1].as_of_seq


def _listing_replaces(stack: ExitStack) -> None:
    replaced(Healing, "_apply", _listing_wins)(stack)
    replaced(Healing, "_read_pages", _whole_snapshot)(stack)


def _as_listed(
    kept: rules.KeptConsent | None, version: int, entry: bytes | None, expires_at: Any
) -> rules.KeptConsent | None:
    if kept is not None and kept.version == version:
        return None
    return rules.KeptConsent(version, ended=False, entry=entry, expires_at=expires_at)


def _no_party(known: KnownToken, consent: Any, _party: Any, of: Any = rules.in_force) -> KnownToken | None:
    result: KnownToken | None = of(known, consent, None)
    return result


class _Later:
    """Evidence that is written down once the verdict is out."""

    def __init__(self, evidence: Any) -> None:
        self._evidence = evidence

    def record_all(self, entries: Any) -> list[str]:
        async def record() -> None:
            await trio.sleep(LATER)
            self._evidence.record_all(entries)

        trio.lowlevel.spawn_system_task(record)
        return [f"e{len(self._evidence.entries) + place}" for place, _ in enumerate(entries)]


def _evidence_later(self: Verdicts, asked: Any, of: Any = Verdicts.in_outage) -> list[Verdict]:
    evidence = self._evidence
    self._evidence = _Later(evidence)  # type: ignore[assignment] # as much of it as is called
    try:
        verdicts: list[Verdict] = of(self, asked)
    finally:
        self._evidence = evidence
    return verdicts


def _any_failure(stack: ExitStack) -> None:
    for module in (verdicts, joining):
        replaced(module, "verdict_on_run", lambda *_: None)(stack)


def _one_is_enough(stack: ExitStack) -> None:
    def verdict_on_run(failures: Iterable[Failure], by_address: Mapping[str, Failure | None]) -> Reason | None:
        reason = fallback.verdict_on_run(failures, by_address)
        counts = any(one is not None and counts_as_outage(one) for one in by_address.values())
        return None if reason is Reason.UNANSWERED and counts else reason

    for module in (verdicts, joining):
        replaced(module, "verdict_on_run", verdict_on_run)(stack)


async def _first_that_comes(_self: Client, _run: Any, answer: Any, _call: Any, _judge: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return answer


async def _any_reply(
    self: Client, run: Any, address: Any, call: Any, judge: Any, begun: Any, reply: Any, of: Any = Client._read
) -> Any:
    same = msgspec.structs.replace(call, request_id=reply.request_id)
    return await of(self, run, address, same, judge, begun, reply)


_ALL: Final[Sequence[tuple[str, str, Patch]]] = (
    ("202 first", "a push is acknowledged, and stored two seconds later (`Intake.take`)",
     replaced(Intake, "take", _take_first)),
    ("applied later", "an event is acknowledged, and applied half a second later (`Intake.take`)", _applied_later),
    ("left undone", "a start forgets what was stored and not applied before the process died (`EventStore`)",
     replaced(EventStore, "__init__", _left_undone)),
    ("noted first", "events are noted as applied before they are (`EventStore.due`)",
     replaced(EventStore, "due", _noted_first)),
    ("ack first", "polled events are acknowledged before they are stored (`Polling.drain`)",
     replaced(Polling, "drain", _ack_first)),
    ("old end", "an end does not count against an answer that is newer (`rules.in_force`)",
     replaced(rules, "in_force", _end_if_newer)),
    ("no prev", "`ccs_prev` is not looked at (`Chain.place`)", replaced(Chain, "place", _no_prev)),
    ("despite a hole", "the fallback does not ask whether events are missing (`Outages.now`)",
     replaced(Outages, "now", _never_missing)),
    ("no fence", "a pusher does not ask whether its lease has ended (`Tenure.holds`, `.left`)", _no_fence),
    ("done anyway", "a push that nobody answered counts as done (`schedule.judge`)",
     replaced(attempt, "judge", _done_anyway)),
    ("revived", "a grant or renewal revives what has ended (`rules.changed`)", replaced(rules, "changed", _revived)),
    ("one-off too", "a one-off counts as any other consent (`verdicts._consents`)", _one_off_too),
    ("any failure", "any failure makes an outage (`verdict_on_run`)", _any_failure),
    ("one is enough", "one node that has failed so makes an outage (`verdict_on_run`)", _one_is_enough),
    ("no better", "a `last_known` answer is taken without asking other nodes (`Client._look_for_better`)",
     replaced(Client, "_look_for_better", _first_that_comes)),
    ("no cap", "an outage has no end (`Outages.now`)", replaced(Outages, "now", _no_clock)),
    ("forgets", "a restart forgets that there is an outage (`Outages`)", replaced(Outages, "__init__", _forgetful)),
    ("listing wins", "what a listing says replaces what is known, a snapshot ten seconds later (`Healing`)",
     _listing_replaces),
    ("suspended too", "that an ATP is stopped does not count in an outage (`rules.in_force`)",
     replaced(rules, "in_force", _no_party)),
    ("evidence later", "a share in an outage is written down two seconds after the verdict (`Verdicts.in_outage`)",
     replaced(Verdicts, "in_outage", _evidence_later)),
    ("short chain", "the lookahead does not move chains over what it leaves out (`Book._of_fact`)",
     replaced(Book, "_of_fact", _short_chain)),
    ("drawn id", "an event's id is drawn, so that the sequencer doubles what was written ahead (`sets.event_jti`)",
     replaced(sets, "event_jti", _drawn)),
    ("signed anew", "a pusher signs in place of sending what was kept (`Signing.signed`)",
     replaced(Signing, "signed", _signed_anew)),
    ("any signature", "an event's signature is not looked at (`verification._check_signature`)",
     replaced(verification, "_check_signature", lambda *_: None)),
    ("any party", "issuer and audience of an event are not looked at (`verification._check_parties`)",
     replaced(verification, "_check_parties", lambda *_: None)),
    ("any answer", "an answer counts, whichever call it names (`Client._read`)", replaced(Client, "_read", _any_reply)),
    ("old answer", "an answer counts, however long ago it was signed (`answers.OLDEST`)",
     replaced(answers, "OLDEST", 86_400)),
)  # fmt: skip
MISTAKES: Final = {name: Mistake(name, change, patch) for name, change, patch in _ALL}
