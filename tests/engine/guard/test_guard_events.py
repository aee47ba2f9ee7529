"""A guard's events part as a whole, over real mutual TLS both ways, on trio and on asyncio; and call by call."""

import sqlite3
import ssl
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import trio
from anyio.abc import SocketAttribute, SocketStream

from engine.config import BadConfig
from engine.events.facts import Change
from engine.guard import events as guard_events
from engine.guard.config import Events, GuardConfig, Receiver, Service
from engine.guard.events import EventsStatus, GuardEvents, push_url_of, service_tls
from engine.guard.fallback_report import Report
from engine.guard.memory import MemoryFull
from engine.guard.opening import Parts, open_guard, open_parts
from engine.guard.reporting import HttpsPost, NotReported
from engine.guard.transmitter import NoSuchStream, NotTold, TooManyCalls, TooOld, Unreachable
from engine.guard.transmitter_https import HttpsTransmitter
from engine.guard.watch import Standing
from engine.telemetry.guard_metrics import guard_families
from engine.telemetry.host import SystemClock
from tests.support.event_files import event_store_at, store_beside
from tests.support.event_pushes import EVENT, exchange
from tests.support.event_service import EventService
from tests.support.events import EDP
from tests.support.guard_memory import InMemory
from tests.support.mutual_tls import Authority, thumbprint_of
from tests.support.told import HandClock, TellingService, consent_id

Scenario = Callable[[EventService, HttpsTransmitter], Awaitable[None]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    for name in ("guard", "receiver", "pusher"):
        authority.issue(name)
    return authority


@pytest.fixture(params=["trio", "asyncio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def config_of(authority: Authority, folder: Path, issuer: str) -> GuardConfig:
    at = authority.directory
    return GuardConfig(
        client_id=EDP,
        issuer=issuer,
        service=Service(
            addresses=("https://localhost:1",),
            ca_file=authority.file,
            certificate_file=at / "guard.pem",
            key_file=at / "guard.key",
            machine_url=issuer,
        ),
        store=store_beside(folder / "events.sqlite"),
        events=Events(
            receiver=Receiver(
                certificate_file=at / "receiver.pem",
                key_file=at / "receiver.key",
                client_ca_file=authority.file,
                pusher_thumbprints=(thumbprint_of(at / "pusher.pem").hex(),),
                port=0,
                public_url="https://edp-7.example/ccs/events",
            )
        ),
    )


def test_from_nothing_to_whole_and_on(authority: Authority, tmp_path: Path, backend: str) -> None:
    """Set up, confirmed, pushed to, healed: every call real but the ledger."""
    anyio.run(_live, authority, tmp_path, backend=backend)


async def _live(authority: Authority, folder: Path) -> None:
    telling, memory, clock = TellingService(), InMemory(), HandClock()
    service = EventService(telling)
    with anyio.fail_after(30):
        async with service.serving(authority):
            telling.issuer = service.issuer
            telling.change(1, Change.GRANTED)
            config = config_of(authority, folder, service.issuer)
            async with (
                GuardEvents(config, memory, clock, jitter=lambda: 0.5) as events,
                anyio.create_task_group() as tasks,
            ):
                await tasks.start(events.run)
                await _until(lambda: events.status().last_poll_at is not None)
                assert telling.made["push"].endpoint_url == "https://edp-7.example/ccs/events"
                assert not telling.unacknowledged
                await _push(authority, events, telling.verification(challenge="prove it"))
                await _until(lambda: events.status().push_status == "enabled" and len(telling.verified) == 1)
                lost, told = telling.change(1, Change.REVOKED), telling.change(2, Change.GRANTED)
                await _push(authority, events, told.compact)
                assert events.status().standing is Standing.MISSING
                clock.forward(5)
                await _push(authority, events, telling.heartbeat(clock.now()))
                await _until(lambda: events.status().standing is Standing.WHOLE)
                await _until(lambda: memory.missing_since() is None)
                assert memory._consents[consent_id(1)].ended
                await _until(lambda: lost.jti not in telling.unacknowledged)
                assert_status(events.status(), telling)
                events.reload()
                tasks.cancel_scope.cancel()


def assert_status(status: EventsStatus, telling: TellingService) -> None:
    assert status.last_seq >= telling.last_seq
    assert status.last_push_at is not None
    assert status.last_heartbeat_at is not None
    assert (status.ahead, status.refused, status.security_events, status.unknown) == (0, {}, 0, 0)
    assert status.missing_since is None


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the code under test has no event for it
        await anyio.sleep(0.005)


async def _push(authority: Authority, events: GuardEvents, compact: bytes) -> None:
    context = authority.client_context((authority.directory / "pusher.pem", authority.directory / "pusher.key"))
    async with await anyio.connect_tcp(
        "127.0.0.1",
        events.status().port,
        ssl_context=context,
        tls_hostname="localhost",
        tls_standard_compatible=False,
    ) as stream:
        assert (await exchange(stream, compact, "POST", EVENT, "/ccs/events"))[0] == 202


@pytest.fixture
def call(authority: Authority, tmp_path: Path, backend: str) -> Callable[[Scenario], None]:
    """Run a scenario with a service that serves and a transmitter that knows it."""

    async def run(scenario: Scenario) -> None:
        service = EventService(TellingService())
        async with service.serving(authority):
            config = config_of(authority, tmp_path, service.issuer)
            transmitter = HttpsTransmitter(service.issuer, service.issuer, config.event_jwks_url, service_tls(config))
            with anyio.fail_after(20):
                await scenario(service, transmitter)
            await transmitter.aclose()

    return lambda scenario: anyio.run(run, scenario, backend=backend)


def test_configuration_is_found_once_and_again_after_a_refusal(call: Callable[[Scenario], None]) -> None:
    async def scenario(service: EventService, transmitter: HttpsTransmitter) -> None:
        await transmitter.streams()
        await transmitter.streams()
        found = [target for _, target in service.requests if "well-known" in target]
        assert len(found) == 1
        service.status = 403
        with pytest.raises(NotTold):
            await transmitter.streams()
        service.status = 0
        await transmitter.streams()
        assert len([target for _, target in service.requests if "well-known" in target]) == 2

    call(scenario)


def test_another_authority_holds_from_the_next_call_on(
    call: Callable[[Scenario], None], authority: Authority, tmp_path: Path
) -> None:
    """Although a connection is open."""
    stranger = ssl.create_default_context(cafile=str(Authority(tmp_path, "stranger").file))

    async def scenario(service: EventService, transmitter: HttpsTransmitter) -> None:
        ours = service_tls(config_of(authority, tmp_path, service.issuer))
        assert await transmitter.event_keys()
        transmitter.renew(stranger)
        with pytest.raises(NotTold, match="TLS"):
            await transmitter.event_keys()
        for _ in range(3):
            transmitter.renew(ours)
        assert await transmitter.event_keys()
        assert len(transmitter._client._retired) == 0

    call(scenario)


def test_a_call_under_way_ends_on_the_connection_it_began_on(
    call: Callable[[Scenario], None], authority: Authority, tmp_path: Path
) -> None:
    stranger = ssl.create_default_context(cafile=str(Authority(tmp_path, "stranger").file))

    async def scenario(service: EventService, transmitter: HttpsTransmitter) -> None:
        url, client = service.issuer + "/event-jwks", transmitter._client
        async with client.stream("GET", url, None, {}) as response:
            client.renew(stranger)
            with pytest.raises(NotTold, match="TLS"):
                await transmitter.event_keys()
            assert len(client._retired) == 1
            assert await response.aread()
        client.renew(service_tls(config_of(authority, tmp_path, service.issuer)))
        assert await transmitter.event_keys()
        assert len(client._retired) == 0

    call(scenario)


def test_listing_by_pages(call: Callable[[Scenario], None]) -> None:
    async def scenario(service: EventService, transmitter: HttpsTransmitter) -> None:
        for number in range(4):
            service.telling.change(number, Change.GRANTED)
        service.telling.party(suspended=True)
        changes = await transmitter.changes(0, "")
        assert (len(changes.consents), changes.more) == (3, True)
        rest = await transmitter.changes(changes.consents[-1].seq, changes.incarnation)
        assert (len(rest.consents), len(rest.parties), rest.more) == (1, 1, False)
        page = await transmitter.snapshot(None)
        assert page.cursor is not None
        assert len(page.consents) + len((await transmitter.snapshot(page.cursor)).consents) == 4
        with pytest.raises(TooOld):
            await transmitter.changes(0, "another")

    call(scenario)


@pytest.mark.parametrize(
    ("status", "fault"),
    [(503, Unreachable), (500, Unreachable), (429, TooManyCalls), (400, NotTold), (401, NotTold), (302, NotTold),
     (404, NoSuchStream), (410, TooOld)],
)  # fmt: skip
def test_refusals_by_what_they_mean(call: Callable[[Scenario], None], status: int, fault: type[Exception]) -> None:
    async def scenario(service: EventService, transmitter: HttpsTransmitter) -> None:
        service.status = status
        with pytest.raises(fault):
            await transmitter.poll(service.issuer + "/ssf/poll/p", (), 100, {})

    call(scenario)


@pytest.mark.parametrize(
    ("said", "wait"), [(b"7", 7), (b"86400", 60), (b"", 0), (b"-1", 0), (b"Sat, 28 Nov 2026 04:00:00 GMT", 0)]
)
def test_429_says_how_long_to_wait_up_to_a_minute(call: Callable[[Scenario], None], said: bytes, wait: int) -> None:
    async def scenario(service: EventService, transmitter: HttpsTransmitter) -> None:
        service.status, service.retry_after = 429, said
        with pytest.raises(TooManyCalls) as refused:
            await transmitter.event_keys()
        assert refused.value.wait == wait

    call(scenario)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"sets":[]}', b"\xff", b"[" * 100_000])
def test_what_cannot_be_read_is_not_told(call: Callable[[Scenario], None], raw: bytes) -> None:
    async def scenario(service: EventService, transmitter: HttpsTransmitter) -> None:
        service.raw = raw
        with pytest.raises(NotTold):
            await transmitter.poll(service.issuer + "/ssf/poll/p", (), 100, {})
        service.raw = None
        assert (await transmitter.poll(service.issuer + "/ssf/poll/p", ("a",), 0, {})).sets == {}
        assert service.bodies[-1] == {"maxEvents": 0, "returnImmediately": True, "ack": ["a"]}

    call(scenario)


# httpx2 leaves closing a generator within its own to the collector when a body is not read to its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_answer_without_end_is_cut_off(call: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.guard.transmitter_https.MAX_ANSWER", 1_000)

    async def scenario(service: EventService, transmitter: HttpsTransmitter) -> None:
        service.raw = b" " * 1_001
        with pytest.raises(NotTold, match="too long"):
            await transmitter.event_keys()

    call(scenario)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_answer_that_does_not_end_in_time_is_none(
    call: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece comes in time, and all of them do not: nobody may keep a guard from asking for ever."""
    monkeypatch.setattr("engine.guard.transmitter_https.WHOLE", -1.0)

    async def scenario(_service: EventService, transmitter: HttpsTransmitter) -> None:
        with pytest.raises(Unreachable, match="too long"):
            await transmitter.event_keys()

    call(scenario)


def test_configuration_of_another_issuer_is_not_taken(call: Callable[[Scenario], None]) -> None:
    async def scenario(service: EventService, transmitter: HttpsTransmitter) -> None:
        service.issuer = "https://elsewhere.example"
        with pytest.raises(NotTold, match="another issuer"):
            await transmitter.streams()

    call(scenario)


def test_nobody_there_is_unreachable_and_a_wrong_certificate_is_not(
    authority: Authority, tmp_path: Path, backend: str
) -> None:
    async def run() -> None:
        service = EventService(TellingService())
        other = Authority(tmp_path, "other")
        async with service.serving(authority):
            context = ssl.create_default_context(cafile=str(other.file))
            transmitter = HttpsTransmitter(service.issuer, service.issuer, service.issuer + "/event-jwks", context)
            with pytest.raises(NotTold, match="TLS"):
                await transmitter.event_keys()
            await transmitter.aclose()
        config = config_of(authority, tmp_path, service.issuer)
        transmitter = HttpsTransmitter(service.issuer, service.issuer, config.event_jwks_url, service_tls(config))
        with pytest.raises(Unreachable):
            await transmitter.event_keys()
        await transmitter.aclose()

    anyio.run(run, backend=backend)


@pytest.mark.parametrize("reads", [0, 65_536])
def test_whoever_takes_a_connection_and_ends_it_is_an_outage_as_for_questions(
    authority: Authority, tmp_path: Path, backend: str, reads: int
) -> None:
    """As a load balancer does before a service that is away: nobody has spoken, so that no event is missing by that."""

    async def end(stream: SocketStream) -> None:
        async with stream:
            if reads:
                await stream.receive(reads)

    async def run() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            origin = f"https://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610 - anyio's, not Django's
            config = config_of(authority, tmp_path, origin)
            transmitter = HttpsTransmitter(origin, origin, config.event_jwks_url, service_tls(config))
            post = HttpsPost(origin, service_tls(config))
            async with anyio.create_task_group() as group:
                group.start_soon(listener.serve, end)
                with pytest.raises(Unreachable):
                    await transmitter.event_keys()
                with pytest.raises(NotReported) as caught:
                    await post(Report((), b"{}", "key-1"))
                assert caught.value.again
                group.cancel_scope.cancel()
            await transmitter.aclose()
            await post.aclose()

    anyio.run(run, backend=backend)


def test_settings_that_do_not_hold(authority: Authority, tmp_path: Path) -> None:
    config = config_of(authority, tmp_path, "https://localhost:1")
    broken = msgspec.structs.replace(
        config, service=msgspec.structs.replace(config.service, key_file=tmp_path / "none")
    )
    with pytest.raises(BadConfig, match="service"):
        GuardEvents(broken, InMemory(), HandClock(), jitter=lambda: 0.5)


def test_address_by_itself_is_made_of_host_and_port() -> None:
    settings: dict[str, Any] = {name: Path("x") for name in ("certificate_file", "key_file", "client_ca_file")}
    assert push_url_of(Receiver(**settings, host="127.0.0.1", port=8460)) == "https://127.0.0.1:8460/events"


def test_what_a_block_of_an_open_guard_raises_comes_through_as_it_is(
    authority: Authority, tmp_path: Path, backend: str
) -> None:
    config = config_of(authority, tmp_path, "https://localhost:1")

    async def raises() -> None:
        async with open_guard(config) as guard:
            assert guard.status().circuit == "closed"
            await anyio.sleep(0.01)  # its own tasks have begun
            raise ZeroDivisionError

    async def is_cancelled() -> bool:
        with anyio.move_on_after(0.1) as scope:
            async with open_guard(config):
                await anyio.sleep_forever()
        return scope.cancelled_caught

    with pytest.raises(ZeroDivisionError):
        anyio.run(raises, backend=backend)
    assert anyio.run(is_cancelled, backend=backend), "the store is free again"


async def test_how_long_an_outage_lasts_is_noted_where_the_memory_has_no_room(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(authority, tmp_path, "https://localhost:1")
    noted: list[bool] = []

    def full() -> None:
        raise MemoryFull("full")

    monkeypatch.setattr("engine.guard.opening.FLUSH_EVERY", 0.0)
    async with open_parts(config, SystemClock()) as parts:
        monkeypatch.setattr(parts.guard, "note_time", lambda: noted.append(True))
        monkeypatch.setattr(parts._store, "flush", full)
        with pytest.raises(MemoryFull):
            await parts.services["memory"](task_status=trio.TASK_STATUS_IGNORED)
    assert noted == [True]


async def test_an_open_guard_tells_its_events_part_when_the_service_answered(
    authority: Authority, tmp_path: Path
) -> None:
    config = config_of(authority, tmp_path, "https://localhost:1")
    async with open_parts(config, SystemClock()) as parts:
        told = parts._events._intake._answered_at
        assert told() is None
        parts.guard._outages.answered(current=False)
        assert told() is None
        parts.guard._outages.answered(current=True)
        assert told() == parts.guard.answered_at() is not None


async def test_a_file_of_events_that_was_changed_is_seen_from_outside(authority: Authority, tmp_path: Path) -> None:
    config = config_of(authority, tmp_path, "https://localhost:1")
    event_store_at(file := config.store.directory / guard_events.FILE).close()
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("DELETE FROM sealed WHERE name = 'head'")
    async with open_parts(config, SystemClock()) as parts:
        health = parts.health((), draining=False)
    assert (health.events.anew, health.falls_back) == (1, False)
    figures = {sample.name: sample.value for family in guard_families(health) for sample in family.samples}
    assert figures["ccs_guard_events_anew"] == 1.0


async def test_a_reload_takes_another_authority_for_events_and_reports_and_a_broken_file_leaves_the_old(
    authority: Authority, tmp_path: Path
) -> None:
    certificates, folder = tmp_path / "certificates", tmp_path / "guard"
    certificates.mkdir()
    folder.mkdir()
    stranger, believed = Authority(certificates, "stranger").file.read_bytes(), certificates / "believed.pem"
    believed.write_bytes(stranger)
    service = EventService(TellingService())
    async with service.serving(authority):
        config = config_of(authority, folder, service.issuer)
        config = msgspec.structs.replace(config, service=msgspec.structs.replace(config.service, ca_file=believed))
        async with open_parts(config, SystemClock()) as parts:
            with pytest.raises(NotTold, match="TLS"):
                await parts._events._https.event_keys()
            with pytest.raises(NotReported, match="does not answer"):
                await parts._reports(Report((), b"{}", "key-1"))
            believed.write_bytes(stranger + authority.file.read_bytes())
            for reload in parts.reloads.values():
                reload()
            await assert_both_are_heard(parts)
            believed.write_bytes(b"no certificate")
            for reload in parts.reloads.values():
                with pytest.raises(BadConfig, match=believed.name):
                    reload()
            await assert_both_are_heard(parts)


async def assert_both_are_heard(parts: Parts) -> None:
    assert await parts._events._https.event_keys()
    with pytest.raises(NotReported, match="does not take"):  # it knows nothing of reports
        await parts._reports(Report((), b"{}", "key-1"))
