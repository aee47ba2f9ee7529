"""A guard's calls about events against the real service and its real pusher: streams, polls, listings, keys."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import pytest
import trio

from engine.consent.records import ClientId
from engine.events.facts import Change
from engine.events.verification import ErrorCode, Expected, RefusedEvent, VerifiedEvent, verify_event
from engine.guard.transmitter import NoSuchStream, NotTold, TooManyCalls, TooOld
from engine.guard.transmitter_https import HttpsTransmitter
from engine.telemetry.host import SystemClock
from engine.tokens.keys import KeySet
from tests.support.push_receivers import Receiving, receiving
from tests.support.sandbox import SOON, Running

T = TypeVar("T")
EDP = "edp-3"


class Told:
    """What came by push, as a receiver reads it."""

    def __init__(self, running: Receiving, expected: Expected, keys: KeySet) -> None:
        self.running, self.expected, self.keys = running, expected, keys

    def read(self, compact: bytes) -> VerifiedEvent:
        return verify_event(compact, self.keys, self.expected, SystemClock().now())

    async def find(self, wanted: Callable[[VerifiedEvent], bool]) -> VerifiedEvent:
        with trio.fail_after(SOON):
            while True:
                for _, headers, content in self.running.requests:
                    assert headers["content-type"] == "application/secevent+jwt"
                    if wanted(event := self.read(content)):
                        return event
                await trio.sleep(0.02)


@pytest.fixture
async def service(sandbox: Running) -> AsyncIterator[HttpsTransmitter]:
    issuer = sandbox.about["issuer"]
    made = HttpsTransmitter(issuer, sandbox.about["admin_mtls_url"], f"{issuer}/event-jwks", sandbox.context(EDP))
    yield made
    await made.aclose()


@asynccontextmanager
async def pushed_to(sandbox: Running, keys: KeySet) -> AsyncIterator[Told]:
    """A receiver whose certificate is registered."""
    done = await in_thread(sandbox.ccs, "sandbox", "guard", EDP)
    assert done.returncode == 0, done.stderr
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(sandbox.state / "pki/ca.pem"))
    tls.load_cert_chain(sandbox.state / f"guard/{EDP}/receiver.pem", sandbox.state / f"guard/{EDP}/receiver.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    async with receiving(tls) as running:
        yield Told(running, Expected(sandbox.about["issuer"], ClientId(EDP), frozenset({"their word"})), keys)


async def in_thread(call: Callable[..., T], *arguments: str) -> T:
    return await trio.to_thread.run_sync(partial(call, *arguments))


async def until(ask: Callable[[], Awaitable[T]], enough: Callable[[T], bool]) -> T:
    with trio.fail_after(SOON):
        while True:
            if enough(answer := await ask()):
                return answer
            await trio.sleep(0.05)


async def test_every_call_of_a_guards_about_events_is_one_that_the_service_answers(
    sandbox: Running, service: HttpsTransmitter
) -> None:
    keys = KeySet.from_jwks(await service.event_keys(), sandbox.about["issuer"])
    assert await service.streams() == ()
    with pytest.raises(TooOld):  # its consents are older than its streams
        await service.changes(0, "")
    poll = await service.create_stream(None)
    assert not poll.is_push
    with pytest.raises(NotTold):
        await service.create_stream(None)
    async with pushed_to(sandbox, keys) as told:
        push = await service.create_stream(f"https://localhost:{told.running.port}/events")
        assert (push.is_push, await service.status(push.stream_id)) == (True, "paused")
        assert await service.move_stream(push.stream_id, push.endpoint_url) == push
        with pytest.raises(TooManyCalls) as refused:  # one new address a minute
            await service.move_stream(push.stream_id, f"https://localhost:{told.running.port}/elsewhere")
        assert 0 < refused.value.wait <= push.verification_interval == 60
        assert set(await service.streams()) == {poll, push}
        challenge = await told.find(lambda event: event.challenge is not None)
        assert challenge.subject == push.stream_id
        assert challenge.challenge is not None
        with pytest.raises(NotTold):
            await service.confirm(push.stream_id, "a guess")
        await service.confirm(push.stream_id, challenge.challenge)
        assert await service.status(push.stream_id) == "enabled"
        await service.verify(push.stream_id, "their word")
        await told.find(lambda event: getattr(event.payload, "state", None) == "their word")
        with pytest.raises(TooManyCalls):
            await service.verify(push.stream_id, "their word")

        page = await service.snapshot(None)
        consents = list(page.consents)
        while page.cursor is not None:
            page = await service.snapshot(page.cursor)
            consents += page.consents
        assert {"active"} <= {line.state for line in consents}
        assert all(line.authorization_details for line in consents if line.state == "active")
        assert {party.client_id for party in page.parties} >= {"atp-1"}

        (minted,) = await in_thread(sandbox.tokens, "1", "--edp", EDP)
        pushed = await told.find(lambda event: event.subject == minted["consent_id"])
        assert (pushed.change, pushed.seq > page.as_of_seq) == (Change.GRANTED, True)
        ask = partial(service.changes, page.as_of_seq, page.incarnation)
        listed = await until(ask, lambda view: bool(view.consents))
        (line,) = (line for line in listed.consents if line.consent_id == minted["consent_id"])
        assert (line.seq, line.state, listed.incarnation) == (pushed.seq, "active", page.incarnation)
        with pytest.raises(TooOld):
            await service.changes(page.as_of_seq, "f" * 16)

        fetch = partial(service.poll, poll.endpoint_url, (), 100, {})
        polled = await until(fetch, lambda one: pushed.jti in one.sets)
        event = told.read(polled.sets[pushed.jti].encode())
        assert (event.seq, event.prev) == (pushed.seq, pushed.prev)
        others = [jti for jti in polled.sets if jti != pushed.jti]
        refused = {pushed.jti: RefusedEvent(ErrorCode.INVALID_REQUEST, "a trial")}
        assert not (await service.poll(poll.endpoint_url, others, 0, refused)).sets
        assert not (await fetch()).sets
    await until(partial(gone, sandbox, push.stream_id), bool)
    for call in (service.status(push.stream_id), service.verify(push.stream_id, None)):
        with pytest.raises(NoSuchStream):
            await call


async def gone(sandbox: Running, stream_id: str) -> bool:
    """The push stream is deleted; nobody listens there any more."""
    call = partial(sandbox.machine(EDP).call, "DELETE", f"/ssf/streams?stream_id={stream_id}")
    return (await trio.to_thread.run_sync(call))[0] == 204
