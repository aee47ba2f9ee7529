"""Restart, reload and drain under load: no request fails."""

import signal
from contextlib import AbstractContextManager

import pytest

from tests.support.load import Load, under_load
from tests.support.nodes import WITHIN, Running, Start, eventually

ENOUGH = 200  # answers, before and after what is tested: every caller has had several


def load_on(running: Running) -> AbstractContextManager[Load]:
    return under_load(running.described()["ports"]["introspection"], running.client)


def workers(running: Running) -> set[int]:
    return set(running.described()["pids"]["workers"])


def renewed(running: Running, before: set[int], times: int = 2) -> None:
    """Every worker has been replaced, and the old ones are gone."""
    eventually(lambda: len(running.events("renewed")) == times)
    pids = running.described()["pids"]
    assert set(pids["workers"]).isdisjoint(before)
    assert (len(pids["workers"]), pids["others"]) == (2, [])


def more(load: Load) -> None:
    """Answers after this moment."""
    seen = load.total
    eventually(lambda: load.total > seen + ENOUGH)


def test_all_workers_are_renewed_without_a_failed_request(start: Start) -> None:
    running = start().wait_ready()
    before = workers(running)
    with load_on(running) as load:
        more(load)
        running.process.send_signal(signal.SIGUSR1)
        renewed(running, before)
        more(load)
    assert load.failed == []
    assert load.turned_away == 0
    assert workers(running) & load.answered.keys()
    assert [child["restarts"] for child in running.status("/statusz")[1]["children"]] == [0, 0, 0]


def test_new_certificates_limits_and_keys_are_taken_without_a_failed_request(start: Start) -> None:
    running = start().wait_ready()
    before = workers(running)
    with load_on(running) as load:
        more(load)
        running.authority.issue("server")
        running.config.write_text(running.config.read_text().replace("[listener]", "[listener]\nidle-timeout = 9.0"))
        running.change_key()
        running.process.send_signal(signal.SIGHUP)
        (told,) = eventually(lambda: running.supervisor_events("reloaded"))
        more(load)
    renewed(running, before, times=3)  # and the feeder
    assert told["in_place"] == ["listener.idle-timeout"]
    assert told["renewed"] == ["feed.mac-key-files[0]", "feed.meter-key-file"]
    assert load.failed == []
    assert load.turned_away == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_fails_no_request(start: Start, number: signal.Signals) -> None:
    running = start().wait_ready()
    with load_on(running) as load:
        more(load)
        running.process.send_signal(number)
        assert running.process.wait(WITHIN) == 0
    assert load.failed == []
