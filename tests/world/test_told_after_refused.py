"""By the time a receiver hears of a revocation for the first time, introspection refuses already.

A real sandbox and its pusher, and a receiver that asks a node from within the push, before it answers. A push is not
held back for a node that lags, since that would only bring it later; so this is what a service does that runs as usual.
That every node refuses once the revocation is reported effective is promised without any such condition (P1).
"""

import json
import ssl
from functools import partial
from typing import Any

import trio

from engine.consent.records import ClientId
from engine.events.facts import Change
from engine.events.verification import Expected, VerifiedEvent, verify_event
from engine.telemetry.host import SystemClock
from engine.tokens.keys import KeySet
from tests.support.push_receivers import ACCEPTED, receiving
from tests.support.sandbox import SOON, Caller, Running

EDP = "edp-1"
ROUNDS = 5


class Receiver:
    """Asks about the token of each consent that it is told has ended, within the first push."""

    def __init__(self, sandbox: Running, keys: KeySet) -> None:
        self._expected = Expected(sandbox.about["issuer"], ClientId(EDP))
        self._keys = keys
        self.caller = sandbox.caller(EDP)  # it stays connected, so that asking takes no time
        self.token_of: dict[str, str] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.challenge = ""

    async def answer(self, _path: str, content: bytes) -> bytes:
        event = verify_event(content, self._keys, self._expected, SystemClock().now())
        self.challenge = event.challenge or self.challenge
        if event.change is Change.REVOKED:
            await self._ask(event)
        return ACCEPTED

    async def _ask(self, event: VerifiedEvent) -> None:
        if event.subject in self.answers:
            return
        call = partial(self.caller.introspect, self.token_of[event.subject])
        status, self.answers[event.subject] = await trio.to_thread.run_sync(call)
        assert status == 200


async def test_introspection_refuses_before_the_first_push(sandbox: Running) -> None:
    about = sandbox.about
    machine = sandbox.machine(EDP)

    async def call(method: str, path: str, body: object = None) -> Any:
        status, answer = await trio.to_thread.run_sync(partial(machine.call, method, path, body))
        assert status in (200, 201, 204), answer
        return answer

    keys = await trio.to_thread.run_sync(partial(event_keys, sandbox))
    done = await trio.to_thread.run_sync(partial(sandbox.ccs, "sandbox", "guard", EDP))
    assert done.returncode == 0, done.stderr
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(sandbox.state / "pki/ca.pem"))
    tls.load_cert_chain(sandbox.state / f"guard/{EDP}/receiver.pem", sandbox.state / f"guard/{EDP}/receiver.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    receiver = Receiver(sandbox, KeySet.from_jwks(keys, about["issuer"]))
    async with receiving(tls, receiver.answer) as running:
        url = f"https://localhost:{running.port}/events"
        delivery = {"method": "urn:ietf:rfc:8935", "endpoint_url": url}
        stream = (await call("POST", "/ssf/streams", {"delivery": delivery}))["stream_id"]
        await until(lambda: bool(receiver.challenge))
        await call("POST", "/ssf/confirm", {"stream_id": stream, "challenge": receiver.challenge})
        await call("POST", "/ssf/streams", {})  # the other one, so that this one may go at the end
        minted = await trio.to_thread.run_sync(partial(sandbox.tokens, ROUNDS, "--edp", EDP))
        for one in minted:
            receiver.token_of[one["consent_id"]] = one["token"]
            await until_active(receiver.caller, one["token"])
            revoke = partial(sandbox.ccs, "sandbox", "revoke", one["consent_id"])
            assert (await trio.to_thread.run_sync(revoke)).returncode == 0
            await until(lambda consent_id=one["consent_id"]: consent_id in receiver.answers)  # type: ignore[misc]  # bound at once
        await call("DELETE", f"/ssf/streams?stream_id={stream}")
    refused = [answer == {"active": False} for answer in receiver.answers.values()]
    assert len(refused) == ROUNDS
    assert sum(refused) >= ROUNDS - 1, "one may meet a process that the machine held up"


def event_keys(sandbox: Running) -> bytes:
    caller = sandbox._connected(sandbox.about["issuer"] + "/", EDP)
    return json.dumps(caller.call("GET", "/event-jwks")[1]).encode()


async def until_active(caller: Caller, token: str) -> None:
    with trio.fail_after(SOON):
        while True:
            if (await trio.to_thread.run_sync(partial(caller.introspect, token)))[1].get("active"):
                return
            await trio.sleep(0.02)


async def until(holds: Any) -> None:
    with trio.fail_after(SOON):
        while not holds():  # noqa: ASYNC110 - processes ring no bell here
            await trio.sleep(0.01)
