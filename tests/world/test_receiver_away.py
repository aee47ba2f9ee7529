"""A receiver that was away for an hour, eight days or three months heals: by poll, by the listing, by the snapshot.

The real service over real mutual TLS on a real ledger, its retention run as of then; the guard's own parts that follow
events. What nobody tells any more in one way is told in the next one.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from admin.ledger.outbox_pruning import Pruning
from engine.clock import Seconds
from engine.consent.records import ClientId
from engine.events.sets import event_claims
from engine.guard.event_store import StreamIds
from engine.guard.transmitter_https import HttpsTransmitter
from engine.guard.watch import Standing
from engine.pusher.service import Signed
from tests.support.admin_service import ISSUER, PATIENCE, Site, site
from tests.support.event_guards import EventGuard
from tests.support.events import jwks, signer
from tests.support.guard_memory import InMemory
from tests.support.told import HandClock, TellingService

__all__ = ["site"]
EDP = ClientId("edp-1")
HOUR, DAY = 3_600.0, 86_400.0


class Service(HttpsTransmitter):
    """calls: in their order. The key set is signed for by hand here, as events are."""

    def __init__(self, site: Site) -> None:
        url = f"https://localhost:{site.port}"
        super().__init__(ISSUER, url, f"{url}/event-jwks", site.pki.client_context(EDP))
        self.calls: list[str] = []

    async def event_keys(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return jwks()

    async def poll(self, poll_url: str, ack: Sequence[str], max_events: int, errors: Mapping[str, Any]) -> Any:
        polled = await super().poll(poll_url, ack, max_events, errors)
        self.calls += ["polled"] * len(polled.sets)
        return polled

    async def changes(self, after_seq: int, incarnation: str) -> Any:
        self.calls.append("changes")
        return await super().changes(after_seq, incarnation)

    async def snapshot(self, cursor: str | None) -> Any:
        self.calls.append("snapshot")
        return await super().snapshot(cursor)


@pytest.fixture
async def service(site: Site) -> AsyncIterator[Service]:
    made = Service(site)
    yield made
    await made.aclose()


class Receiver:
    """A guard's events part in one life after the other, on the same file and memory."""

    def __init__(self, path: Path, site: Site, service: Service) -> None:
        self._path, self._site, self._service = path, site, service
        self.memory, self.clock = InMemory(), HandClock(int(time.time()))
        self.streams = StreamIds()

    def life(self) -> EventGuard:
        return EventGuard(
            self._path, TellingService(), asks=self._service, issuer=ISSUER, client_id=EDP,
            memory=self.memory, clock=self.clock, set_up=False,
        )  # fmt: skip

    async def subscribe(self) -> None:
        _, made = await self._site.call(EDP, "POST", "/ssf/streams", {})
        guard = self.life()
        url = f"https://localhost:{self._site.port}/ssf/poll/{made['stream_id']}"
        guard.store.note(streams=StreamIds("", made["stream_id"], url))
        guard.close()

    def known(self) -> dict[str, tuple[int, bool]]:
        return {name: (one.version, one.ended) for name, one in self.memory._consents.items()}


async def sign(site: Site, count: int) -> None:
    """As the pusher does, once so many are there to be signed."""
    found = await until(lambda: site.outbox.unsigned(0, 500, Seconds(0.0)), lambda made: len(made) >= count)
    epoch = (await site.outbox.lease("test", None)).epoch
    made = [
        Signed(
            one.number,
            signer().sign_event(
                event_claims(
                    one.fact, receiver=one.client_id, role=one.role, issuer=ISSUER, jti=one.jti, seq=one.seq,
                    prev=one.prev, txn=one.txn,
                )
            ),
        )
        for one in found
    ]  # fmt: skip
    await site.outbox.keep(epoch, made)
    await site.outbox.release(epoch)


async def until(ask: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
    with trio.fail_after(PATIENCE):
        while True:
            if enough(answer := await ask()):
                return answer
            await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("away", "ways"),
    [
        (HOUR, ["polled", "polled", "polled", "polled", "changes"]),  # the listing only says that this was all
        (8 * DAY, ["changes"]),
        (91 * DAY, ["changes", "snapshot"]),
    ],
    ids=["an hour", "eight days", "three months"],
)
async def test_a_receiver_that_was_away_heals(
    site: Site, service: Service, tmp_path: Path, away: float, ways: list[str]
) -> None:
    receiver = Receiver(tmp_path / "events.sqlite", site, service)
    await receiver.subscribe()
    lasting, ending = await site.granted(1), await site.granted(2)
    await sign(site, 2)
    guard = receiver.life()
    await guard.healing.heal(must_list=True)
    assert receiver.known() == {lasting: (1, False), ending: (1, False)}
    assert guard.intake.standing() is Standing.WHOLE
    guard.close()  # as kill -9 does

    begun, brief = await site.granted(3), await site.granted(4)
    for consent_id in (ending, brief):
        reply = await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke", {"reason": "no_longer_needed"})
        assert reply[0] == 200
    await sign(site, 4)
    receiver.clock.forward(away)
    await Pruning(site.ledger.database, lambda: time.time() + away, leap=Seconds(2.0 * away)).prune()
    service.calls.clear()

    guard = receiver.life()
    assert receiver.memory.missing_since() == receiver.clock.now(), "nothing is shared on what it knew"
    await guard.polling.drain(guard.store.streams.poll_url)
    await guard.intake.apply_due()
    polled = receiver.known()
    await guard.healing.heal(must_list=False)
    assert service.calls == ways
    truth = {lasting: (1, False), ending: (2, True), begun: (1, False), brief: (2, True)}
    assert receiver.known() == truth
    assert (polled == truth) is (away == HOUR)
    assert guard.intake.standing() is Standing.WHOLE
    assert receiver.memory.missing_since() is None
    newest = (await site.ledger.head()).position.seq
    assert guard.store.chain.last_seq == newest

    await site.granted(5)
    await sign(site, 1)
    await guard.healing.heal(must_list=False)
    assert not guard.store.chain.has_hole, "the next event goes on from where the listing ended"
    assert len(receiver.known()) == 5
    guard.close()
