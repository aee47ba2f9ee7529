"""The push receiver over real mutual TLS, on trio and on asyncio: every row of the table of bad inputs."""

import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.abc
import anyio.streams.tls
import msgspec
import pytest
from structlog.testing import capture_logs

from engine.clock import Seconds
from engine.config import BadConfig
from engine.consent.records import ConsentId
from engine.errors import Fault
from engine.events.facts import Change
from engine.events.sets import EventClaims
from engine.events.signing import PemEventSigner, new_event_key
from engine.guard.config import Receiver
from engine.guard.event_file import StoreDown
from engine.guard.memory import MemoryFull
from engine.guard.ordering import ChainState
from engine.guard.receiver import PushReceiver, pins_of
from engine.guard.transmitter import TooManyCalls, Unreachable
from engine.telemetry.floods import LINES_A_SECOND
from tests.support.event_guards import EventGuard
from tests.support.event_pushes import EVENT, Answer, exchange
from tests.support.events import CONSENT, claims_of, consent_fact, jwks, members_of, signer
from tests.support.guard_memory import InMemory
from tests.support.mutual_tls import Authority, thumbprint_of
from tests.support.told import POLL_URL, TellingService, consent_id


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    for name in ("receiver", "pusher", "stranger"):
        authority.issue(name)
    return authority


class Served:
    """A receiver that runs, and a transmitter that speaks to it."""

    def __init__(self, guard: EventGuard, receiver: PushReceiver, authority: Authority) -> None:
        self.guard = guard
        self.service = guard.service
        self.receiver = receiver
        self.authority = authority

    async def dial(self, who: str | None = "pusher", authority: Authority | None = None) -> anyio.abc.ByteStream:
        directory = (authority or self.authority).directory
        files = None if who is None else (directory / f"{who}.pem", directory / f"{who}.key")
        context = self.authority.client_context(files)
        return await anyio.connect_tcp(
            "127.0.0.1",
            self.receiver.port,
            ssl_context=context,
            tls_hostname="localhost",
            tls_standard_compatible=False,
        )

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.receiver.port

    async def push(self, body: bytes, who: str = "pusher", method: str = "POST", **headers: str) -> Answer:
        async with await self.dial(who) as stream:
            return await exchange(stream, body, method, {**EVENT, **headers})


Scenario = Callable[[Served], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture(params=["trio", "asyncio"])
def play(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> Play:
    """Run a scenario against a receiver of its own; pinned: whether only the pusher's certificate is taken."""

    def run(scenario: Scenario, *, pinned: bool = True, **fields: Any) -> None:
        anyio.run(_serve, scenario, tmp_path, authority, pinned, fields, backend=request.param)

    return run


async def _serve(scenario: Scenario, folder: Path, authority: Authority, pinned: bool, fields: dict[str, Any]) -> None:
    guard = EventGuard(folder / "events.sqlite", TellingService())
    pins = (thumbprint_of(authority.directory / "pusher.pem").hex(":").upper(),) if pinned else ()
    settings = Receiver(
        certificate_file=authority.directory / "receiver.pem",
        key_file=authority.directory / "receiver.key",
        client_ca_file=authority.file,
        pusher_thumbprints=pins,
        port=0,
        **fields,
    )
    receiver = PushReceiver(settings, guard.intake, guard.keys, guard.clock)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(20):
            await tasks.start(receiver.run)
            await scenario(Served(guard, receiver, authority))
        tasks.cancel_scope.cancel()
    guard.close()


def error_of(answer: Answer) -> str:
    status, headers, body = answer
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert headers["content-language"] == "en"
    members: dict[str, str] = json.loads(body)
    assert members.keys() == {"err", "description"}
    assert members["description"]
    return members["err"]


def test_event_is_taken_and_applied_and_its_repeat_is_answered_alike(play: Play) -> None:
    async def scenario(served: Served) -> None:
        told = served.service.change(1, Change.GRANTED)
        async with await served.dial() as stream:  # row 15, on one connection
            for _ in range(3):
                status, headers, body = await exchange(stream, told.compact, "POST", EVENT)
                assert (status, body, headers["content-length"]) == (202, b"", "0")
        assert served.guard.intake.statistics().repeated == 2
        assert served.guard.store.chain.last_seq == told.seq

    play(scenario)


def test_what_was_answered_202_is_known_to_the_next_check(play: Play) -> None:
    """Nobody else applies anything here: it was done before the answer went out. Many at once share the waits."""

    async def scenario(served: Served) -> None:
        told = [served.service.change(number, Change.REVOKED) for number in range(12)]
        answered = list[int]()

        async def push(number: int) -> None:
            assert (await served.push(told[number].compact))[0] == 202
            assert served.guard.memory.has_ended(consent_id(number))
            answered.append(number)

        async with anyio.create_task_group() as tasks:
            for number in reversed(range(12)):  # the first names nothing before it: the others come before their turn
                tasks.start_soon(push, number)
        assert len(answered) == 12

    play(scenario)


def test_what_cannot_be_applied_is_not_acknowledged_by_push_or_poll(play: Play) -> None:
    async def scenario(served: Served) -> None:
        told, guard = served.service.change(1, Change.REVOKED), served.guard
        end = guard.memory.end

        def full(*_: object) -> None:
            raise MemoryFull("full")

        guard.memory.end = full  # type: ignore[method-assign] # a disk without room
        assert (await served.push(told.compact))[0] == 503
        with pytest.raises(MemoryFull):
            await guard.polling.drain(POLL_URL)
        assert told.jti in served.service.unacknowledged
        guard.memory.end = end  # type: ignore[method-assign] # there is room again
        await guard.polling.drain(POLL_URL)
        assert guard.memory.has_ended(consent_id(1))
        assert told.jti not in served.service.unacknowledged
        assert (await served.push(told.compact))[0] == 202

    play(scenario)


def test_rows_1_to_4_who_and_how(play: Play, tmp_path_factory: pytest.TempPathFactory) -> None:
    async def scenario(served: Served) -> None:
        other = Authority(tmp_path_factory.mktemp("other"), "other")
        other.issue("pusher")
        for who, authority in ((None, None), ("pusher", other)):  # row 1
            with pytest.raises((ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream, ConnectionError)):
                async with await served.dial(who, authority) as stream:
                    await exchange(stream, b"", "POST", EVENT)
        good = served.service.change(1, Change.GRANTED).compact
        status, headers, _ = await served.push(b"", method="GET")  # row 2
        assert (status, headers["allow"]) == (405, "POST")
        for content_type in ("application/json", "application/jwt", "text/plain", ""):  # row 3
            assert (await served.push(good, **{"Content-Type": content_type}))[0] == 415
        assert (await served.push(good, **{"Content-Type": "Application/SECEVENT+jwt; charset=x"}))[0] == 202
        assert (await served.push(b"x" * 65_537))[0] == 413  # row 4
        async with await served.dial() as stream:
            assert (await exchange(stream, good, "POST", EVENT, "/elsewhere"))[0] == 404
            assert (await exchange(stream, good, "POST", EVENT, "/events?x=1"))[0] == 202
        assert served.receiver.statistics().pushes == 2

    play(scenario)


def test_rows_5_to_11_what_is_no_event_for_us(play: Play) -> None:
    async def scenario(served: Served) -> None:
        good = served.service.change(1, Change.GRANTED).compact
        stranger = PemEventSigner.from_pem(new_event_key())
        claims = claims_of(consent_fact())
        bad = {
            b"": "invalid_request",
            b"{}": "invalid_request",
            good + b".": "invalid_request",
            good[:-4] + b"AAAA": "authentication_failed",
            stranger.sign_event(claims): "invalid_key",
            signer().sign_event(msgspec.structs.replace(claims, iss="https://x")): "invalid_issuer",
            signer().sign_event(msgspec.structs.replace(claims, aud="edp-8")): "invalid_audience",
            served.service.verification("never asked"): "invalid_state",  # row 18
        }
        for body, err in bad.items():
            assert error_of(await served.push(body)) == err
        counts = served.guard.intake.statistics()
        assert counts.taken == 0
        assert sum(counts.refused.values()) == len(bad)
        assert counts.security_events == 2  # the signature, the audience
        assert served.guard.store.due() == []

    play(scenario)


def test_rows_12_and_13_what_is_not_known_is_stored_and_told(play: Play) -> None:
    async def scenario(served: Served) -> None:
        first = served.service.change(1, Change.GRANTED)
        assert (await served.push(first.compact))[0] == 202
        claims = members_of(claims_of(consent_fact(), seq=first.seq + 1, prev=first.seq))
        unknown = {**claims, "jti": "c9.new", "events": {"https://x.example/new": {"a": 1}}}
        with capture_logs() as logs:
            assert (await served.push(signed(unknown)))[0] == 202  # row 12
        (alert,) = [line for line in logs if line["event"] == "event_of_unknown_type"]
        assert (alert["type"], alert["jti"], alert["log_level"]) == ("https://x.example/new", "c9.new", "warning")
        more = members_of(claims_of(consent_fact(Change.GRANTED, 1), seq=first.seq + 2, prev=first.seq + 1))
        (payload,) = more["events"].values()
        payload["later"] = more["toe"] = 1
        assert (await served.push(signed(more)))[0] == 202  # row 13
        counts = served.guard.intake.statistics()
        assert (counts.taken, counts.unknown, counts.refused, counts.security_events) == (3, 1, {}, 0)
        await served.guard.intake.apply_due()
        assert served.guard.store.chain == ChainState(first.seq + 2), "an event that nobody knows has its place"
        assert isinstance(served.guard.memory, InMemory)
        assert CONSENT in served.guard.memory._consents

    play(scenario)


def signed(members: dict[str, Any]) -> bytes:
    """By the key that is published, whatever it says."""
    return signer().sign_event(cast("EventClaims", members))


def test_rows_14_and_16_what_is_kept(play: Play) -> None:
    async def scenario(served: Served) -> None:
        end = served.service.change(1, Change.REVOKED)  # row 14: nobody has heard of this consent
        assert (await served.push(end.compact))[0] == 202
        other = msgspec.structs.replace(claims_of(consent_fact(), seq=9, prev=end.seq), jti=end.jti)
        assert error_of(await served.push(signer().sign_event(other))) == "invalid_request"  # row 16
        assert served.guard.intake.statistics().security_events == 1
        again = served.service.signer.sign_event(_claims_again(end.compact))  # the same claims under another signature
        assert again != end.compact
        assert (await served.push(again))[0] == 202
        await served.guard.intake.apply_due()
        assert isinstance(served.guard.memory, InMemory)
        kept = served.guard.memory._consents[ConsentId(served.service.states().popitem()[0])]
        assert (kept.version, kept.ended) == (1, True)

    play(scenario)


def _claims_again(compact: bytes) -> Any:
    from engine.tokens.jws import decode_part

    return json.loads(decode_part(compact.split(b".")[1]) or b"")


def test_row_17_own_trouble_is_503_and_never_202(play: Play) -> None:
    async def scenario(served: Served) -> None:
        told = served.service.change(1, Change.GRANTED)
        guard, keep = served.guard, served.guard.store.keep
        for fault in (StoreDown("full"), MemoryFull("full")):

            def fail(*_: object, fault: Fault = fault) -> Any:
                raise fault

            guard.store.keep = fail
            status, headers, body = await served.push(told.compact)
            assert (status, headers["retry-after"], body) == (503, "5", b"")
        guard.store.keep = keep
        assert (await served.push(told.compact))[0] == 202

    play(scenario)


def test_certificate_that_is_not_pinned_is_not_listened_to(play: Play) -> None:
    async def scenario(served: Served) -> None:
        told = served.service.change(1, Change.REVOKED)
        assert error_of(await served.push(told.compact, who="stranger")) == "access_denied"
        assert served.guard.intake.statistics().security_events == 1
        assert served.guard.store.due() == []

    play(scenario)


def test_without_pins_the_authority_decides(play: Play) -> None:
    async def scenario(served: Served) -> None:
        assert (await served.push(served.service.change(1, Change.REVOKED).compact, who="stranger"))[0] == 202

    play(scenario, pinned=False)


def test_new_key_is_fetched_once_a_minute_at_most(play: Play) -> None:
    async def scenario(served: Served) -> None:
        service, guard = served.service, served.guard
        assert (await served.push(service.change(1, Change.GRANTED).compact))[0] == 202
        guard.clock.forward(60)
        service.calls.clear()
        service.signer = PemEventSigner.from_pem(new_event_key())
        service.keys = jwks(signer(), service.signer)
        for _ in range(2):  # a rotation: one fetch, then the key is known
            assert (await served.push(service.change(1, Change.RENEWED).compact))[0] == 202
        assert service.calls == ["event_keys"]
        stranger = PemEventSigner.from_pem(new_event_key())
        for _ in range(3):  # within the minute nobody can make us fetch again
            assert error_of(await served.push(stranger.sign_event(claims_of(consent_fact())))) == "invalid_key"
        assert service.calls == ["event_keys"]
        guard.clock.forward(60)
        for _ in range(3):
            assert error_of(await served.push(stranger.sign_event(claims_of(consent_fact())))) == "invalid_key"
        assert service.calls == ["event_keys", "event_keys"]

    play(scenario)


def test_key_that_cannot_be_fetched_is_our_trouble(play: Play) -> None:
    """400 would have the event parked although nothing is wrong with it."""

    async def scenario(served: Served) -> None:
        told = served.service.change(1, Change.GRANTED)
        served.service.fails = Unreachable("away")
        for _ in range(3):
            assert (await served.push(told.compact))[0] == 503
        assert served.service.calls == ["event_keys"]
        served.service.fails = None
        served.guard.clock.forward(5)
        assert (await served.push(told.compact))[0] == 202

    play(scenario)


def test_key_set_is_fetched_again_when_the_service_said(play: Play) -> None:
    async def scenario(served: Served) -> None:
        told = served.service.change(1, Change.GRANTED)
        served.service.fails = TooManyCalls("slow down", wait=Seconds(40.0))
        assert (await served.push(told.compact))[0] == 503
        served.service.fails = None
        served.guard.clock.forward(39)
        assert (await served.push(told.compact))[0] == 503
        assert served.service.calls == ["event_keys"]
        served.guard.clock.forward(1)
        assert (await served.push(told.compact))[0] == 202

    play(scenario)


def test_too_many_connections_are_closed(play: Play) -> None:
    async def scenario(served: Served) -> None:
        told = served.service.change(1, Change.GRANTED)
        async with await served.dial(), await served.dial() as second:
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream, ConnectionError, ssl.SSLError)):
                async with await served.dial() as third:
                    await exchange(third, told.compact, "POST", EVENT)
            assert (await exchange(second, told.compact, "POST", EVENT))[0] == 202

    play(scenario, max_connections=2)


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_whoever_says_nothing_takes_no_place_from_the_service(play: Play, who: str) -> None:
    """As many as there are places, without a handshake or with one that shows a certificate which is not pinned."""

    async def scenario(served: Served) -> None:
        told = served.service.change(1, Change.REVOKED)
        async with AsyncExitStack() as stack:
            for _ in range(64):
                silent = served.dial("stranger") if who == "stranger" else anyio.connect_tcp(*served.address)
                await stack.enter_async_context(await silent)
            assert (await served.push(told.compact))[0] == 202
            counts = served.receiver.statistics()
            assert counts.handshakes >= 60, "they were all there"

    play(scenario)


def test_a_silent_handshake_ends_soon(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.guard.handshakes.DEADLINE", 0.2)

    async def scenario(served: Served) -> None:
        async with await anyio.connect_tcp(*served.address) as silent:
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await silent.receive()
        assert served.receiver.statistics().handshakes == 0

    play(scenario)


def test_our_own_trouble_fills_no_log(play: Play) -> None:
    async def scenario(served: Served) -> None:
        told = served.service.change(1, Change.GRANTED)

        def fail(*_: object) -> Any:
            raise StoreDown("full")

        served.guard.store.keep = fail
        with capture_logs() as logs:
            async with await served.dial() as stream:
                for _ in range(2 * LINES_A_SECOND):
                    assert (await exchange(stream, told.compact, "POST", EVENT))[0] == 503
                served.guard.clock.forward(1)
                assert (await exchange(stream, told.compact, "POST", EVENT))[0] == 503
        lines = [line for line in logs if line["event"] == "event_not_taken"]
        assert [line["left_out"] for line in lines] == [0] * LINES_A_SECOND + [LINES_A_SECOND]

    play(scenario)


def test_request_that_comes_byte_by_byte_is_not_waited_for(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and the whole does not: nobody may hold a place for ever."""
    monkeypatch.setattr("engine.guard.receiver.WHOLE", 0.3)

    async def scenario(served: Served) -> None:
        async with await served.dial() as stream:
            with pytest.raises((anyio.BrokenResourceError, ConnectionError, ssl.SSLError)):
                await trickle(stream)

    play(scenario)


async def trickle(stream: anyio.abc.ByteStream) -> None:
    await stream.send(b"POST /events HTTP/1.1\r\nX-Long: ")
    for _ in range(100):
        await stream.send(b"x")
        await anyio.sleep(0.05)


def test_bytes_that_are_no_request_end_their_connection_alone(play: Play) -> None:
    async def scenario(served: Served) -> None:
        async with await served.dial() as stream:
            await stream.send(b"GET\r\n\r\n" + b"x" * 70_000)
            assert (await stream.receive()).startswith(b"HTTP/1.1 400 ")
        async with await anyio.connect_tcp("127.0.0.1", served.receiver.port) as plain:
            await plain.send(b"POST /events HTTP/1.1\r\n\r\n")
        assert (await served.push(served.service.change(1, Change.GRANTED).compact))[0] == 202

    play(scenario)


def test_certificate_files_are_taken_anew(play: Play) -> None:
    async def scenario(served: Served) -> None:
        served.authority.issue("receiver")
        served.receiver.reload()
        async with await served.dial() as stream:
            shown = stream.extra(anyio.streams.tls.TLSAttribute.peer_certificate_binary)  # noqa: S610 - anyio's, not Django's
        pem = (served.authority.directory / "receiver.pem").read_text()
        assert shown == ssl.PEM_cert_to_DER_cert(pem)
        (served.authority.directory / "receiver.key").write_text("no key")
        with pytest.raises(BadConfig):
            served.receiver.reload()
        assert (await served.push(served.service.change(1, Change.GRANTED).compact))[0] == 202
        served.authority.issue("receiver")

    play(scenario)


@pytest.mark.parametrize("text", ["xy", "ab:cd", "00" * 31])
def test_pins_are_whole_thumbprints(text: str) -> None:
    with pytest.raises(BadConfig):
        pins_of((text,))
