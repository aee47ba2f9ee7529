"""A node of real processes: children that are killed come back, nothing is left behind, whoever dies."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.cli.free_ports import free_ports
from tests.support.mutual_tls import Authority
from tests.support.node_children import HEAD
from tests.support.nodes import MAIN, ROOT, TRIVIAL, WITHIN, Caller, Connect, Running, Start, alive, eventually


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Running]:
    """A node for tests that leave it as it was."""
    running = Running(tmp_path_factory.mktemp("calm"), authority, {})
    yield running.wait_ready()
    running.stop()


def caller_on(running: Running, connect: Connect, pid: int) -> Caller:
    """A connection that this very worker has accepted."""
    for _ in range(200):
        caller = connect(running)
        if caller.ask() == pid:
            return caller
    raise AssertionError("that worker accepts nothing")


def test_killed_worker_comes_back_and_other_connections_go_on(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    victim, other = running.described()["pids"]["workers"]
    kept = caller_on(running, callers, other)
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in running.pids() and running.workers_run(2))
    assert kept.ask() == other
    assert time.monotonic() - killed_at < WITHIN
    (fresh,) = set(running.described()["pids"]["workers"]) - {other}
    assert caller_on(running, callers, fresh).ask() == fresh


def test_killed_feeder_comes_back(start: Start) -> None:
    running = start().wait_ready()
    feeder = running.described()["pids"]["feeder"]
    os.kill(feeder, signal.SIGKILL)
    fresh = eventually(lambda: (pid := running.described()["pids"]["feeder"]) not in (0, feeder) and pid)
    assert alive(fresh)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_everything(start: Start, number: signal.Signals) -> None:
    running = start().wait_ready()
    pids = running.pids()
    running.process.send_signal(number)
    assert running.process.wait(WITHIN) == 0
    assert [pid for pid in pids if alive(pid)] == []
    assert not (running.runtime / "node.json").exists()


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WITHIN).close()
    except ConnectionError:
        return True
    return False


def test_request_under_way_is_answered_before_the_end(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    caller = callers(running)
    caller.ask()
    caller.send(b"/slow")
    port = running.described()["ports"]["introspection"]
    running.process.send_signal(signal.SIGTERM)
    eventually(lambda: refuses(port))
    assert caller.receive()[0] == 200
    assert running.process.wait(WITHIN) == 0


def test_a_second_signal_does_not_spoil_the_drain(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    caller = callers(running)
    caller.ask()
    caller.send(b"/slow")
    port = running.described()["ports"]["introspection"]
    running.process.send_signal(signal.SIGTERM)
    eventually(lambda: refuses(port))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        running.process.send_signal(number)
    assert caller.receive()[0] == 200
    assert running.process.wait(WITHIN) == 0
    assert not (running.runtime / "node.json").exists()


def test_a_reload_while_children_start_kills_none(start: Start) -> None:
    running = start()
    eventually(lambda: running.described() and all(running.pids()))
    running.process.send_signal(signal.SIGHUP)
    running.wait_ready()
    assert [child["restarts"] for child in running.status("/statusz")[1]["children"]] == [0, 0, 0]


def test_workers_may_open_as_many_files_as_connections(start: Start) -> None:
    enough = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < enough:
        pytest.skip("this machine allows no more")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        running = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    worker = running.wait_ready().described()["pids"]["workers"][0]
    limits = Path(f"/proc/{worker}/limits").read_text()
    (found,) = re.findall(r"Max open files +(\d+)", limits)
    assert int(found) > enough


def test_children_end_when_the_supervisor_is_killed(start: Start) -> None:
    running = start().wait_ready()
    pids = running.pids()
    os.kill(running.process.pid, signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids))
    assert running.process.wait() == -signal.SIGKILL


def test_node_starts_again_after_it_was_killed(start: Start, tmp_path: Path) -> None:
    running = start().wait_ready()
    pids = running.pids()
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    eventually(lambda: not any(alive(pid) for pid in pids))
    again = subprocess.Popen(
        [sys.executable, "-c", MAIN, str(running.config), *TRIVIAL], cwd=ROOT, stderr=running.log, process_group=0
    )
    running.process = again
    eventually(lambda: running.described()["pids"]["node"] == again.pid and running.workers_run(2))
    assert tmp_path.exists()


def start_again(running: Running) -> None:
    """The same node, killed without a word to its children."""
    running.process.kill()
    running.process.wait()
    running.process = subprocess.Popen(
        [sys.executable, "-c", MAIN, str(running.config), *TRIVIAL], cwd=ROOT, stderr=running.log, process_group=0
    )
    eventually(
        lambda: (
            running.process.poll() is not None
            or (running.described()["pids"]["node"] == running.process.pid and running.workers_run(2))
        )
    )
    assert running.process.poll() is None, running.said()


def test_a_start_waits_for_the_port_that_its_draining_left_overs_hold(start: Start, callers: Connect) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    running = start(port=port).wait_ready()
    caller = callers(running)
    caller.ask()
    caller.send(b"/slow")
    start_again(running)
    assert caller.receive()[0] == 200
    assert callers(running).ask() in running.described()["pids"]["workers"]
    assert "left_over_awaited" in running.said()


def test_left_overs_that_hang_are_killed(start: Start, callers: Connect) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    running = start(port=port, drain=1.0).wait_ready()
    caller = callers(running)
    hanging = caller.ask()
    caller.send(b"/slow")
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    os.kill(hanging, signal.SIGSTOP)  # not before: the kernel wakes what its parent's death leaves stopped
    start_again(running)
    assert not alive(hanging)
    assert callers(running).ask() in running.described()["pids"]["workers"]
    assert "left_over_killed" in running.said()


def test_a_pid_that_has_gone_to_somebody_else_is_left_alone(start: Start) -> None:
    somebody = subprocess.Popen([sys.executable, "-c", "input()", "engine.node.worker"], stdin=subprocess.PIPE)
    try:
        running = start().wait_ready()
        described = running.described()
        described["pids"]["workers"].append(somebody.pid)
        (running.runtime / "node.json").write_text(json.dumps(described))
        start_again(running)
        assert somebody.poll() is None
    finally:
        somebody.communicate(b"\n")


def test_stopped_worker_holds_no_new_connections(calm: Running, callers: Connect) -> None:
    stopped, other = calm.described()["pids"]["workers"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert {callers(calm).ask() for _ in range(10)} == {other}
    finally:
        os.kill(stopped, signal.SIGCONT)


def test_port_in_use_is_one_sentence(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = start(port=port)
        assert running.process.wait(WITHIN) == 1
    assert running.said().strip() == f"port {port} on 127.0.0.1 is in use by another program"


def test_status_beyond_loopback_is_refused(start: Start) -> None:
    running = start(host="0.0.0.0")  # noqa: S104 - what must be refused
    assert running.process.wait(WITHIN) == 1
    assert running.said().strip() == "status.host must be a loopback address, not 0.0.0.0"


def test_second_node_in_the_same_directory_is_refused(calm: Running) -> None:
    second = subprocess.run(
        [sys.executable, "-c", MAIN, str(calm.config), *TRIVIAL],
        cwd=ROOT,
        capture_output=True,
        timeout=WITHIN,
        check=False,
    )
    assert second.returncode == 1
    assert f"another node runs in {calm.runtime}" in second.stderr.decode()


@pytest.mark.parametrize("role", ["worker", "feeder"])
def test_child_that_cannot_start_as_told_ends_the_node_with_its_sentence(start: Start, role: str) -> None:
    running = start({"CCS_TEST_CHILD": f"hopeless:{role}"})
    assert running.process.wait(WITHIN) == 1
    assert running.said().strip().splitlines()[-1].endswith("failed: the key file is not a key")


def test_listener_answers_on_ipv6_too(calm: Running) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    caller = Caller(calm.described()["ports"]["introspection"], calm.client, "::1")
    assert caller.ask() in calm.described()["pids"]["workers"]
    caller.close()


def test_reload_takes_new_certificates_and_keeps_connections(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    kept = callers(running)
    kept.ask()
    before = kept.socket.getpeercert(binary_form=True)
    running.authority.issue("server")
    running.process.send_signal(signal.SIGHUP)

    def renewed() -> bool:
        return callers(running).socket.getpeercert(binary_form=True) != before

    eventually(renewed)
    assert kept.ask() in running.described()["pids"]["workers"]


def test_status_pages(calm: Running) -> None:
    assert calm.status("/healthz") == (200, {"node_id": "node-a"})
    assert calm.status("/readyz") == (503, {"state": "blind", "draining": False})  # there is no replica
    assert calm.status("/readyz/current")[0] == 503
    status, page = calm.status("/statusz")
    assert (status, page["state"], page["applied"]) == (200, "blind", -1)
    eventually(lambda: calm.status("/statusz")[1]["head"] == HEAD)
    assert [child["name"] for child in page["children"]] == ["worker-1", "worker-2", "feeder"]
    assert all(child["resident"] > 0 for child in page["children"])
    assert calm.get("/nothing")[0] == 404


def test_metrics_of_all_processes_come_together(calm: Running, callers: Connect) -> None:
    def answered() -> float:
        found = re.search(rb'ccs_http_answers_total{status="200"} ([0-9.]+)', calm.get("/metrics")[1])
        return float(found[1]) if found else 0.0

    before = answered()
    first, second = (caller_on(calm, callers, pid) for pid in calm.described()["pids"]["workers"])
    for _ in range(20):
        first.ask()
        second.ask()
    eventually(lambda: answered() >= before + 42)
    text = calm.get("/metrics")[1]
    assert len(re.findall(rb"(?m)^ccs_resident_bytes\{", text)) == 3
    assert b'ccs_node_state{state="blind"} 1.0' in text
    assert b'ccs_child_up{child="worker-2"} 1.0' in text
    assert b'ccs_child_restarts_total{child="feeder"} 0.0' in text
