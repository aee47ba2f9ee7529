"""The sidecar over its real doors: verdicts, refusals by field, strangers kept out, a drain that loses nothing."""

import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from engine.clock import Seconds, UnixTime
from engine.config import BadConfig
from engine.consent.records import Thumbprint
from engine.errors import Fault, Kind
from engine.guard.config import Sidecar as SidecarConfig
from engine.guard.doorkeeper import Door
from engine.guard.doors import Bound, bind
from engine.guard.process import _limits
from engine.guard.shares import Reason
from engine.guard.sidecar import Sidecar, StatusPages
from engine.listener.http1 import Request, Response
from engine.listener.serve import ANYONE, Limits, Server, serve
from engine.listener.sockets import CannotListen
from engine.listener.tls import Peer
from engine.telemetry.guard_health import EventsHealth, EvidenceHealth, MemoryHealth
from engine.telemetry.host import SystemClock
from tests.engine.guard.test_requests import ASKED
from tests.support.guards import ToldHealth, ToldJudge, refusing
from tests.support.mutual_tls import Dialler, RawClient

SECRET = "0123456789abcdef" * 4
Answer = tuple[int, dict[str, str], Any]


class Refusing(Fault):
    kind = Kind.UNAVAILABLE


class Doors:
    """Both doors of one sidecar, served."""

    def __init__(self, bound: Bound, server: list[Server], judge: ToldJudge, health: ToldHealth) -> None:
        self.bound = bound
        self.servers = server
        self.judge = judge
        self.health = health
        self.evidence: dict[str, bytes] = {"e-1": b'{"allowed":true}'}

    def find(self, evidence_id: str) -> bytes | None:
        if evidence_id == "broken":
            raise Refusing("the store cannot be read")
        return self.evidence.get(evidence_id)


@pytest.fixture
def config(tmp_path: Path) -> SidecarConfig:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    return SidecarConfig(socket=tmp_path / "run/guard.sock", port=0, secret_file=secret)


@pytest.fixture
async def doors(config: SidecarConfig, nursery: trio.Nursery) -> AsyncIterator[Doors]:
    judge, health = ToldJudge(), ToldHealth()
    with bind(config) as bound:
        made = Doors(bound, [], judge, health)
        for sockets, door in bound.doors:
            handler = Sidecar(judge, door, health, made.find)
            limits = Limits(http=handler.head_limits, drain_timeout=Seconds(5.0))
            made.servers.append(await _served(nursery, handler, sockets, limits))
        yield made
        nursery.cancel_scope.cancel()


async def _served(nursery: trio.Nursery, handler: Sidecar, sockets: Any, limits: Limits) -> Server:
    async def run(*, task_status: trio.TaskStatus[Server]) -> None:
        await serve(handler, sockets, None, limits, clock=SystemClock(), task_status=task_status)

    server: Server = await nursery.start(run)
    return server


Ask = Callable[..., Awaitable[Answer]]


async def asked(client: RawClient, method: str, path: str, body: bytes | None, fields: dict[str, str]) -> Answer:
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    content = b"" if body is None else body
    length = "" if body is None else f"Content-Length: {len(content)}\r\n"
    await client.send(f"{method} {path} HTTP/1.1\r\n{head}{length}\r\n".encode() + content)
    status, headers, raw = await client.answer(method)
    is_json = raw and headers.get("content-type") == "application/json"
    return status, headers, json.loads(raw) if is_json else raw


@pytest.fixture
async def by_socket(doors: Doors, config: SidecarConfig) -> AsyncIterator[Ask]:
    """Requests over one kept connection on the unix socket."""
    assert config.socket is not None
    assert doors.servers
    async with await trio.open_unix_socket(config.socket) as stream:
        client = RawClient(stream)

        async def ask(method: str, path: str, body: bytes | None = None, **fields: str) -> Answer:
            told = {"Host": "guard", "Content-Type": "application/json"} | {_field(n): v for n, v in fields.items()}
            return await asked(client, method, path, body, told)

        yield ask


@pytest.fixture
async def by_loopback(doors: Doors) -> AsyncIterator[Ask]:
    """Requests on loopback, each on a connection of its own."""
    dialler = Dialler()
    port = doors.bound.port
    assert port is not None

    async def ask(method: str, path: str, body: bytes | None = None, **fields: str) -> Answer:
        told = {
            "Host": f"localhost:{port}",
            "Content-Type": "application/json",
            "Authorization": f"Bearer {SECRET}",
        } | {_field(n): v for n, v in fields.items()}
        client = await dialler.dial(port, None)
        return await asked(client, method, path, body, {name: value for name, value in told.items() if value})

    yield ask
    dialler.close()


def _field(name: str) -> str:
    return name.replace("_", "-").title()


def raw(**changes: object) -> bytes:
    return json.dumps(ASKED | changes).encode()


async def test_a_verdict_is_two_hundred_be_it_yes_or_no(doors: Doors, by_socket: Ask) -> None:
    status, _, verdict = await by_socket("POST", "/v1/check", raw(share_id="7"))
    assert (status, verdict["allowed"], verdict["reason"], verdict["evidence_id"]) == (200, True, "consented", "e-7")
    doors.judge.verdict = refusing(Reason.NOT_ACTIVE)
    status, _, verdict = await by_socket("POST", "/v1/check", raw())
    assert (status, verdict["allowed"], verdict["reason"]) == (200, False, "not_active")
    assert [share.token for share in doors.judge.asked] == [ASKED["token"]] * 2


async def test_a_batch_is_answered_in_its_order(by_socket: Ask) -> None:
    shares = [ASKED | {"share_id": str(number)} for number in range(500)]
    status, _, answer = await by_socket("POST", "/v1/check-many", json.dumps({"shares": shares}).encode())
    assert status == 200
    assert [verdict["evidence_id"] for verdict in answer["verdicts"]] == [f"e-{number}" for number in range(500)]


async def test_bad_input_is_told_by_field_and_asks_nobody(doors: Doors, by_socket: Ask) -> None:
    status, _, answer = await by_socket("POST", "/v1/check", raw(mpxn="x", **{"from": "y"}))
    assert (status, answer["error"]) == (400, "invalid_request")
    assert {problem["field"] for problem in answer["problems"]} == {"mpxn", "from"}
    status, _, answer = await by_socket("POST", "/v1/check-many", json.dumps({"shares": [ASKED, {}]}).encode())
    assert status == 400
    assert "shares.1.token" in {problem["field"] for problem in answer["problems"]}
    assert await statuses(by_socket, b"{", b'{"a":1,"a":1}') == [400, 400]
    assert doors.judge.asked == []


async def statuses(ask: Ask, *bodies: bytes) -> list[int]:
    return [(await ask("POST", "/v1/check", body))[0] for body in bodies]


async def test_a_question_that_is_too_long_is_refused(by_socket: Ask) -> None:
    assert (await by_socket("POST", "/v1/check", b'"' + b"x" * 70_000 + b'"'))[0] == 413


async def test_what_is_not_said_to_be_json_is_not_read(doors: Doors, by_socket: Ask) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        status, headers, _ = await by_socket("POST", "/v1/check", raw(), content_type=kind)
        assert (status, headers["accept"]) == (415, "application/json")
    assert (await by_socket("POST", "/v1/check", raw(), content_type="application/json; charset=utf-8"))[0] == 200
    assert len(doors.judge.asked) == 1


async def test_paths_and_methods_are_exact(by_socket: Ask) -> None:
    assert (await by_socket("POST", "/v1/checks", raw()))[0] == 404
    assert (await by_socket("GET", "/v1/evidence/../x"))[0] == 404
    status, headers, _ = await by_socket("GET", "/v1/check")
    assert (status, headers["allow"]) == (405, "POST")
    assert (await by_socket("POST", "/v1/status", b"{}"))[0] == 405


async def test_evidence_is_found_by_its_id(by_socket: Ask) -> None:
    assert (await by_socket("GET", "/v1/evidence/e-1"))[0::2] == (200, {"allowed": True})
    assert (await by_socket("GET", "/v1/evidence/e-2"))[0] == 404
    assert (await by_socket("GET", "/v1/evidence/broken"))[0] == 503


async def test_status_says_instants_as_text(doors: Doors, by_socket: Ask) -> None:
    doors.health.change(outage_since=1767225600.5, events=EventsHealth(last_seq=7, last_push_at=1767225600.0))
    status, _, told = await by_socket("GET", "/v1/status")
    assert (status, told["ready"], told["falls_back"], told["circuit"]) == (200, True, True, "closed")
    assert told["outage_since"] == told["events"]["last_push_at"] == "2026-01-01T00:00:00Z"
    assert (told["outage_ends_at"], told["events"]["last_seq"]) == (None, 7)


async def test_readiness_ends_with_drain_and_full_disk_but_not_with_an_outage(doors: Doors, by_socket: Ask) -> None:
    assert (await by_socket("GET", "/healthz"))[0::2] == (200, {"client_id": "edp-1"})
    doors.health.change(circuit="suspended", outage_since=1.0)
    assert (await by_socket("GET", "/readyz"))[0] == 200
    doors.health.change(memory=MemoryHealth(full=True))
    assert (await by_socket("GET", "/readyz"))[0] == 503
    doors.health.change(memory=MemoryHealth(), draining=True)
    assert (await by_socket("GET", "/readyz"))[0] == 503
    assert (await by_socket("GET", "/healthz"))[0] == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"events": EventsHealth(missing_since=1.0)},
        {"memory": MemoryHealth(full=True)},
        {"evidence": EvidenceHealth(full=True)},
        {"halts": True},
        {"draining": True},
    ],
)
async def test_each_thing_that_keeps_shares_from_being_made_in_an_outage_is_told(
    changes: dict[str, object], doors: Doors, by_socket: Ask
) -> None:
    for change, figure in (({}, b"1.0"), (changes, b"0.0")):
        doors.health.change(**change)
        _, _, told = await by_socket("GET", "/v1/status")
        assert told["falls_back"] is not bool(change)
        assert b"\nccs_guard_falls_back %b\n" % figure in (await by_socket("GET", "/metrics"))[2]


async def test_metrics_count_by_reason(doors: Doors, by_socket: Ask) -> None:
    doors.judge.verdict = refusing(Reason.HALTED)
    before = await halted(by_socket)
    await by_socket("POST", "/v1/check", raw())
    assert await halted(by_socket) == before + 1


async def halted(ask: Ask) -> float:
    _, _, text = await ask("GET", "/metrics")
    assert b'ccs_guard_circuit{state="closed"} 1.0' in text
    lines = [line for line in text.splitlines() if line.startswith(b'ccs_guard_checks_total{reason="halted"}')]
    return float(lines[0].split()[-1]) if lines else 0.0


async def test_loopback_asks_for_the_secret(doors: Doors, by_loopback: Ask) -> None:
    assert (await by_loopback("POST", "/v1/check", raw()))[0] == 200
    status, headers, _ = await by_loopback("POST", "/v1/check", raw(), authorization="")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert (await by_loopback("POST", "/v1/check", raw(), authorization=f"Bearer {SECRET[1:]}"))[0] == 401
    assert (await by_loopback("GET", "/v1/status", authorization=""))[0] == 401
    assert (await by_loopback("GET", "/v1/evidence/e-1", authorization=""))[0] == 401
    assert (await by_loopback("GET", "/v1/nothing", authorization=""))[0] == 401
    assert (await by_loopback("GET", "/readyz", authorization=""))[0] == 200
    assert len(doors.judge.asked) == 1


@pytest.mark.parametrize(("path", "body"), [("check", raw()), ("check-many", b'{"shares":[%b,%b]}' % (raw(), raw()))])
async def test_a_question_that_takes_too_long_is_answered_before_its_connection_is_cut(
    path: str, body: bytes, autojump_clock: MockClock
) -> None:
    """As where nodes say 429 three times, and wait a minute each."""
    judge, began = ToldJudge(), autojump_clock.current_time()
    judge.gate = trio.Event()
    sidecar = Sidecar(judge, Door(), ToldHealth(), lambda _: None)
    headers = ((b"content-type", b"application/json"),)
    asked = sidecar(Request(b"POST", f"/v1/{path}".encode(), headers, body, keep_alive=True), ANYONE)
    assert not isinstance(asked, Response)
    answer = await asked
    said = json.loads(answer.body)
    verdicts = said["verdicts"] if path == "check-many" else [said]
    for verdict in verdicts:
        assert (verdict["allowed"], verdict["reason"], verdict["retry_after"]) == (False, "unanswered", 60.0)
    assert len(verdicts) == body.count(b'"token"')
    assert 60 < autojump_clock.current_time() - began < Limits().idle_timeout - 1
    assert answer.status == 200


@pytest.mark.parametrize("told", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("", 401),
        ("Authorization: Bearer x\r\n", 401),
        (f"Authorization: Bearer {SECRET}\r\nOrigin: https://x\r\n", 403),
    ],
)
async def test_who_may_not_ask_is_refused_before_a_body_is_sent(
    doors: Doors, fields: str, status: int, told: str
) -> None:
    """And the connection ends: what follows is no next request, and is not kept."""
    port = doors.bound.port
    assert port is not None
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = RawClient(stream)
        head = f"POST /v1/check-many HTTP/1.1\r\nHost: localhost:{port}\r\n{fields}{told}\r\n\r\n"
        await client.send(head.encode())
        answered, headers, _ = await client.answer("POST")
        assert (answered, headers["connection"]) == (status, "close")
        assert await client.ended()
    assert doors.judge.asked == []


@pytest.mark.parametrize(("connections", "waiting"), [(64, 64), (1_000, 1_000), (5_000, 1_000)])
def test_no_more_requests_may_wait_than_there_are_connections(connections: int, waiting: int) -> None:
    limits = _limits(StatusPages(ToldHealth(), 9_464), connections)
    assert (limits.max_connections, limits.max_waiting) == (connections, waiting)


def test_the_status_port_takes_no_body() -> None:
    assert StatusPages(ToldHealth(), 9_464).head_limits.max_body <= 1_024


async def test_a_page_in_a_browser_gets_nothing(doors: Doors, by_loopback: Ask, by_socket: Ask) -> None:
    for ask in (by_loopback, by_socket):
        assert (await ask("POST", "/v1/check", raw(), origin="https://evil.example"))[0] == 403
    assert (await by_loopback("GET", "/healthz", sec_fetch_site="cross-site"))[0] == 403
    assert (await by_loopback("POST", "/v1/check", raw(), host=f"evil.example:{doors.bound.port}"))[0] == 403
    assert doors.judge.asked == []


def test_a_name_that_was_bent_to_loopback_reads_no_health_and_no_metrics() -> None:
    """DNS rebinding: the page is of the same origin as the name, so that its browser sends no `Origin`."""
    pages, nobody = StatusPages(ToldHealth(), 8461), Peer(Thumbprint(bytes(32)), UnixTime(0))

    def status(path: bytes, *hosts: bytes) -> int:
        headers = tuple((b"host", host) for host in hosts)
        answer = pages(Request(b"GET", path, headers, b"", keep_alive=True), nobody)
        assert isinstance(answer, Response)
        return answer.status

    for path in (b"/healthz", b"/readyz", b"/metrics", b"/v1/nothing"):
        assert status(path, b"evil.example:8461") == 403
        assert status(path, b"localhost:80") == 403
        assert status(path, b"localhost:8461", b"evil.example:8461") == 403
        assert status(path) == 403
    assert status(b"/healthz", b"localhost:8461") == 200
    assert status(b"/metrics", b"127.0.0.1:8461") == 200


async def test_a_drain_answers_what_is_under_way(doors: Doors, by_socket: Ask) -> None:
    doors.judge.gate = trio.Event()
    answers: list[Answer] = []
    async with trio.open_nursery() as asking:

        async def ask() -> None:
            answers.append(await by_socket("POST", "/v1/check", raw(share_id="1")))

        asking.start_soon(ask)
        await doors.judge.arrived.wait()
        for server in doors.servers:
            server.drain()
        doors.judge.gate.set()
    assert [(status, answer["allowed"]) for status, _, answer in answers] == [(200, True)]


# The doors themselves.


def test_the_socket_is_private_and_goes_with_its_guard(config: SidecarConfig) -> None:
    assert config.socket is not None
    with bind(config):
        mode = config.socket.lstat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        assert stat.S_IMODE(config.socket.parent.stat().st_mode) == 0o700
    assert not config.socket.exists()


def test_a_socket_that_was_left_behind_is_cleared_away(config: SidecarConfig) -> None:
    assert config.socket is not None
    with bind(config) as left:
        left._paths.clear()
    assert config.socket.exists()
    with bind(config):
        pass


def test_a_second_guard_leaves_the_first_alone(config: SidecarConfig) -> None:
    with bind(config):
        with pytest.raises(CannotListen, match="another program listens"), bind(config):
            pass
        assert config.socket is not None
        assert config.socket.exists()


def test_what_is_no_socket_is_left_alone(config: SidecarConfig) -> None:
    assert config.socket is not None
    config.socket.parent.mkdir(mode=0o700)
    config.socket.write_text("dear")
    with pytest.raises(BadConfig, match="something else"), bind(config):
        pass
    assert config.socket.read_text() == "dear"


def test_a_folder_that_others_may_write_to_is_refused(config: SidecarConfig) -> None:
    assert config.socket is not None
    config.socket.parent.mkdir()
    config.socket.parent.chmod(0o770)
    with pytest.raises(BadConfig, match="chmod go-w"), bind(config):
        pass


def test_a_path_that_the_kernel_cannot_take_is_told(config: SidecarConfig, tmp_path: Path) -> None:
    long = msgspec.structs.replace(config, socket=tmp_path / ("x" * 108))
    with pytest.raises(BadConfig, match="longer than 107 bytes"), bind(long):
        pass


def refused(config: SidecarConfig, **changes: object) -> str:
    with pytest.raises(BadConfig) as caught, bind(msgspec.structs.replace(config, **changes)):
        pass
    return caught.value.text


def test_loopback_without_a_secret_is_refused_at_the_start(config: SidecarConfig, tmp_path: Path) -> None:
    assert "needs `secret-file`" in refused(config, secret_file=None)
    assert "needs `socket`" in refused(config, socket=None, port=None)
    assert "loopback" in refused(config, host="0.0.0.0")  # noqa: S104 - that it is refused
    short = tmp_path / "short"
    short.write_text("x" * 31)
    short.chmod(0o600)
    assert "openssl rand" in refused(config, secret_file=short)
    assert config.secret_file is not None
    config.secret_file.chmod(0o644)
    assert "chmod 600" in refused(config)
