"""When all is mended: has every guard every event, does its memory agree with the ledger, has every delivery arrived?

A guard's memory is read from its own file once its process has ended.
"""

import time
from typing import Any

import trio

from engine.clock import UnixTime
from engine.guard.config import load_guard_config
from engine.guard.store import GuardStore
from tests.chaos.aftermath import Ledger
from tests.chaos.guarding import Guarding
from tests.chaos.judge import Violation
from tests.chaos.knowledge import Knowledge, Token
from tests.chaos.settings import GUARDS
from tests.chaos.system import System
from tests.chaos.verdicts import Said
from tests.chaos.writer import Writers

HEALED_WITHIN = 75.0  # seconds until a guard has everything: an audit of its own, and one after a failed one
PUSHED_WITHIN = 20.0  # seconds that are waited for pushes too; what has failed waits longer, by its schedule
AT_ITS_END = 5.0  # seconds that clocks may differ by
ASKING = 12


async def wait_told(guarding: Guarding, writers: Writers) -> tuple[dict[str, float], dict[str, Any], list[Violation]]:
    """Seconds until each guard had everything, and what the service says of its receivers by then."""
    began, back = trio.current_time(), dict[str, float]()
    receivers = await _receivers(writers)
    while trio.current_time() < began + HEALED_WITHIN:
        for guard, edp in GUARDS.items():
            if guard not in back and _has_all(await guarding.status(guard), receivers.get(edp.client_id, {})):
                back[guard] = trio.current_time() - began
        pushed = not any(one["unsent"] for one in receivers.values())
        if len(back) == len(GUARDS) and (pushed or trio.current_time() > began + PUSHED_WITHIN):
            break
        await trio.sleep(0.2)
        receivers = await _receivers(writers)
    found = [Violation("P4 arrived", 0.0, f"{guard} has not every event") for guard in GUARDS if guard not in back]
    for edp in GUARDS.values():
        receiver = receivers.get(edp.client_id, {"parked": 0, "last_seq": 0})
        if receiver["parked"] or not receiver["last_seq"]:
            found.append(Violation("P4 arrived", 0.0, f"{edp.client_id}: {receiver}"))
    return back, receivers, found


async def ask_guards_about_all(guarding: Guarding, knowledge: Knowledge, ledger: Ledger) -> tuple[int, list[Violation]]:
    """Every guard about every consent of its EDP: nothing shared that has ended, nothing denied that stands."""
    violations: list[Violation] = []
    tokens = [token for token in knowledge.all.values() if guarding.has(token.edp) and _is_settled(token, ledger)]
    limiter = trio.CapacityLimiter(ASKING)

    async def ask(token: Token) -> None:
        async with limiter:
            found = await guarding.ask(token)
        verdict, said = found.verdict, found.said
        standing = ledger.consents[token.consent.consent_id]
        stands = standing.active and standing.expires_at > time.time()
        wrong = said is Said.DENIED if stands else said in (Said.CONSENTED, Said.LAST_KNOWN)
        if wrong or said is Said.NOTHING:
            what = f"{verdict.guard} about {standing.consent_id}: {said} ({verdict.reason})"
            violations.append(Violation("guard differs", time.time(), f"{what}, the ledger has it active: {stands}"))

    async with trio.open_nursery() as nursery:
        for token in tokens:
            nursery.start_soon(ask, token)
    return len(tokens), violations


def compare_memories(
    system: System, knowledge: Knowledge, ledger: Ledger
) -> tuple[dict[str, int], dict[str, int], list[Violation]]:
    """Every end of the ledger in the memory of its EDP's guard, and no other. No guard runs any more.

    Returns how many ends there are, how many of them each memory has, and what is wrong.
    """
    remembered, ended, found = dict[str, int](), dict[str, int](), list[Violation]()
    for guard, edp in GUARDS.items():
        config = load_guard_config(system.places.config(guard))
        store = GuardStore(config.store, config.client_id, lambda: UnixTime(int(time.time())))
        try:
            ids = [one for one, token in knowledge.all.items() if token.edp == edp.client_id]
            known = {one: store.has_ended(one) for one in ids}
        finally:
            store.close()
        remembered[guard] = sum(known.values())
        ended[guard], wrong = differences(guard, known, ledger)
        found += wrong
    return ended, remembered, found


def differences(guard: str, known: dict[str, bool], ledger: Ledger) -> tuple[int, list[Violation]]:
    """known: whether the memory has an end, for each consent. How many the ledger has, and where they do not agree.

    A consent that ran out by itself needs no end, and its end may have come after the ledger was read.
    """
    count, found, now = 0, [], time.time()
    for consent_id, has_end in known.items():
        standing = ledger.consents.get(consent_id)
        if standing is None or standing.expires_at <= now + AT_ITS_END:
            continue
        count += not standing.active
        if has_end == standing.active:
            said = "has ended" if has_end else "has not ended"
            found.append(Violation("lost event", 0.0, f"{guard}: {consent_id} {said}, the ledger says otherwise"))
    return count, found


async def _receivers(writers: Writers) -> dict[str, Any]:
    return {one["client_id"]: one for one in (await writers.get("/receivers"))["receivers"]}


def _has_all(status: dict[str, Any], receiver: dict[str, Any]) -> bool:
    events = status.get("events", {})
    whole = events.get("missing_since") is None and events.get("ahead") == 0
    return whole and events.get("last_seq", -1) >= receiver.get("last_seq", 1 << 62)


def _is_settled(token: Token, ledger: Ledger) -> bool:
    """Neither over nor about to be, and in the ledger."""
    now = time.time()
    standing = ledger.consents.get(token.consent.consent_id)
    return standing is not None and token.expires_at > now + 30 and abs(standing.expires_at - now) > 30
