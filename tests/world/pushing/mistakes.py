"""Deliberate mistakes of the code, each of which the checker has to find."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

import anyio
import msgspec
import trio

from engine.guard import rules
from engine.guard.event_keys import EventKeys
from engine.guard.fallback import Outage
from engine.guard.intake import Intake
from engine.guard.ordering import Chain, Place
from engine.guard.outages import Outages
from engine.guard.polling import AT_ONCE, Polling
from engine.guard.shares import KnownConsent, KnownToken
from engine.pusher import receiver
from engine.pusher.lease import Tenure
from engine.pusher.schedule import Attempt, Judgement, Trouble, judge
from engine.pusher.service import Fate
from tests.world.pushing.guards import Evidence
from tests.world.simulation.mistake import Mistake, Patch, replaced

LATER: Final = 2.0  # seconds


async def _take_first(self: Intake, compact: bytes, keys: EventKeys) -> None:
    arrival = await self._arrival(compact, keys)

    async def keep() -> None:
        await anyio.sleep(LATER)
        await self._take([arrival], refuse=False)

    trio.lowlevel.spawn_system_task(keep)


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

    from engine.guard import verdicts

    before = verdicts._consents
    replaced(verdicts, "_consents", lambda answer: shown(answer, before))(stack)


def _no_fence(stack: ExitStack) -> None:
    replaced(Tenure, "holds", lambda _: True)(stack)
    replaced(Tenure, "left", property(lambda _: 1_000.0))(stack)


_ALL: Final[Sequence[tuple[str, str, Patch]]] = (
    ("202 first", "a push is acknowledged, and stored two seconds later (`Intake.take`)",
     replaced(Intake, "take", _take_first)),
    ("ack first", "polled events are acknowledged before they are stored (`Polling.drain`)",
     replaced(Polling, "drain", _ack_first)),
    ("old end", "an end does not count against an answer that is newer (`rules.in_force`)",
     replaced(rules, "in_force", _end_if_newer)),
    ("no prev", "`ccs_prev` is not looked at (`Chain.place`)", replaced(Chain, "place", _no_prev)),
    ("despite a hole", "the fallback does not ask whether events are missing (`Outages.now`)",
     replaced(Outages, "now", _never_missing)),
    ("no fence", "a pusher does not ask whether its lease has ended (`Tenure.holds`, `.left`)", _no_fence),
    ("done anyway", "a push that nobody answered counts as done (`schedule.judge`)",
     replaced(receiver, "judge", _done_anyway)),
    ("revived", "a grant or renewal revives what has ended (`rules.changed`)", replaced(rules, "changed", _revived)),
    ("one-off too", "a one-off counts as any other consent (`verdicts._consents`)", _one_off_too),
    ("no cap", "an outage has no end (`Outages.now`)", replaced(Outages, "now", _no_clock)),
    ("forgets", "a restart forgets that there is an outage (`Evidence.open_outage`)",
     replaced(Evidence, "open_outage", lambda _: None)),
)  # fmt: skip
MISTAKES: Final = {name: Mistake(name, change, patch) for name, change, patch in _ALL}
