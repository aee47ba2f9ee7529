"""SIGHUP and SIGUSR1 on real processes: what cannot be taken is refused in one line, and the running ones stay."""

import signal
from collections.abc import Callable

import pytest

from tests.support.nodes import WITHIN, Connect, Running, Start, eventually

HOPELESS = "the key file is not a key"


def reload(running: Running) -> None:
    running.process.send_signal(signal.SIGHUP)


def rewrite(running: Running, old: str, new: str) -> None:
    text = running.config.read_text()
    assert old in text
    running.config.write_text(text.replace(old, new))


def spoil_settings(running: Running) -> str:
    rewrite(running, "workers = 2", "workers = two")
    return str(running.config)


def spoil_level(running: Running) -> str:
    rewrite(running, 'node-id = "node-a"', 'node-id = "node-a"\nlog-level = "loud"')
    return "log-level: 'loud'"


def spoil_certificate(running: Running) -> str:
    running.files[0].write_text("no certificate")
    return str(running.files[0])


def spoil_authorities(running: Running) -> str:
    absent = running.runtime / "absent.pem"
    rewrite(running, f'client-ca-file = "{running.authority.file}"', f'client-ca-file = "{absent}"')
    return str(absent)


def spoil_key(running: Running) -> str:
    running.change_key(b"short")
    return "a key has 32 bytes, this file 5"


def open_key(running: Running) -> str:
    running.key.chmod(0o644)
    return "chmod 600"


@pytest.mark.parametrize(
    "spoil", [spoil_settings, spoil_level, spoil_certificate, spoil_authorities, spoil_key, open_key]
)
def test_what_is_broken_is_refused_in_one_line_and_nothing_changes(
    start: Start, callers: Connect, spoil: Callable[[Running], str]
) -> None:
    running = start().wait_ready()
    kept, before = callers(running), running.pids()
    pid = kept.ask()
    said = spoil(running)
    reload(running)
    (refused,) = eventually(lambda: running.events("reload_failed"))
    assert said in refused["text"]
    assert kept.ask() == pid
    assert callers(running).ask() in before
    assert running.pids() == before
    assert not running.events("reloaded")


def test_a_mended_file_is_taken_after_a_refusal(start: Start) -> None:
    running = start().wait_ready()
    before = set(running.described()["pids"]["workers"])
    running.change_key(b"short")
    reload(running)
    eventually(lambda: running.events("reload_failed"))
    running.change_key()
    reload(running)
    eventually(lambda: running.supervisor_events("reloaded"))
    assert before.isdisjoint(running.described()["pids"]["workers"])


def test_a_process_that_cannot_take_one_file_says_what_it_took_and_not_that_it_reloaded(start: Start) -> None:
    running = start().wait_ready()
    worker = running.described()["pids"]["workers"][0]
    running.files[0].write_text("no certificate")
    for rounds in (1, 2):
        running.kill(worker, signal.SIGHUP)
        eventually(lambda rounds=rounds: len(running.events("reload_failed")) == rounds)
    refused = [(line["kept"], line["taken"]) for line in running.events("reload_failed")]
    assert refused == [("listener.tls", ["listener"])] * 2
    assert not running.events("reloaded")
    running.authority.issue("server")
    running.kill(worker, signal.SIGHUP)
    assert eventually(lambda: running.events("reloaded"))


def test_limits_and_log_level_are_taken_by_the_same_processes(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    kept, before = callers(running), running.pids()
    pid = kept.ask()
    rewrite(running, 'node-id = "node-a"', 'node-id = "node-a"\nlog-level = "warning"')
    rewrite(running, "[listener]", "[listener]\nidle-timeout = 1.0")
    reload(running)
    assert kept.ask() == pid
    assert kept.socket.recv(1) == b""  # the new limit ends it
    assert running.pids() == before
    assert not running.events("reloaded")  # below the new level


def test_settings_that_need_a_full_restart_are_named_and_the_others_taken(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    port = running.described()["ports"]["introspection"]
    rewrite(running, "workers = 2", "workers = 3")
    rewrite(running, "[listener]\nport = 0", "[listener]\nport = 1\nmax-head = 9000")
    reload(running)
    (named,) = eventually(lambda: running.events("needs_full_restart"))
    assert named["settings"] == ["listener.port", "workers"]
    (told,) = eventually(lambda: running.supervisor_events("reloaded"))
    assert told["in_place"] == ["listener.max-head"]
    assert running.described()["ports"]["introspection"] == port
    assert callers(running).ask() in running.pids()


def test_a_worker_that_is_killed_later_starts_with_the_new_settings(start: Start, callers: Connect) -> None:
    running = start(workers=1).wait_ready(1)
    rewrite(running, "[listener]", "[listener]\nidle-timeout = 1.0")
    reload(running)
    eventually(lambda: running.supervisor_events("reloaded"))
    (victim,) = running.described()["pids"]["workers"]
    running.kill(victim)
    running.wait_replaced(victim, 1)
    caller = callers(running)
    caller.ask()
    assert caller.socket.recv(1) == b""


def test_a_fresh_worker_that_cannot_start_ends_the_renewal_and_the_old_ones_go_on(
    start: Start, callers: Connect
) -> None:
    running = start()
    running.wait_ready()
    before, kept = running.pids(), callers(running)
    pid = kept.ask()
    running.refuse_starts(HOPELESS)
    running.process.send_signal(signal.SIGUSR1)
    (failed,) = eventually(lambda: running.events("renewal_failed"))
    assert (failed["text"], failed["renewed"], failed["left"]) == (HOPELESS, 0, 2)
    eventually(lambda: running.described()["pids"]["others"] == [])
    assert running.pids() == before
    assert kept.ask() == pid


def test_settings_that_fresh_workers_refuse_are_not_in_force(start: Start) -> None:
    running = start()
    running.wait_ready()
    running.refuse_starts(HOPELESS)
    running.change_key()
    reload(running)
    eventually(lambda: running.events("renewal_failed"))
    running.refuse_starts("")
    reload(running)  # they still differ
    (told,) = eventually(lambda: running.supervisor_events("reloaded"))
    assert "feed.meter-key-file" in told["renewed"]


def test_a_stopped_worker_is_renewed_as_well(start: Start) -> None:
    running = start(drain=1.0).wait_ready()
    stopped, other = running.described()["pids"]["workers"]
    running.kill(stopped, signal.SIGSTOP)
    running.process.send_signal(signal.SIGUSR1)
    eventually(lambda: len(running.events("renewed")) == 2)
    assert {stopped, other}.isdisjoint(running.pids())


def test_a_drain_in_the_middle_of_a_renewal_leaves_nothing_behind(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    caller = callers(running)
    caller.ask()
    caller.send(b"/slow")
    running.process.send_signal(signal.SIGUSR1)
    eventually(lambda: running.described()["pids"]["others"])
    running.process.send_signal(signal.SIGTERM)
    assert caller.receive()[0] == 200
    assert running.process.wait(WITHIN) == 0


def test_signals_in_a_row_are_all_obeyed(start: Start) -> None:
    running = start().wait_ready()
    before = set(running.described()["pids"]["workers"])
    running.change_key()
    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP):
        running.process.send_signal(number)
    eventually(lambda: running.supervisor_events("reloaded"))
    running.wait_ready()
    assert before.isdisjoint(running.described()["pids"]["workers"])
