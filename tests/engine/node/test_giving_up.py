"""Children that cannot start: given up loudly, never in a loop; those that have served are never given up."""

import signal
from collections.abc import Callable

import pytest

from engine.node.supervisor import PATIENCE
from tests.support.nodes import TRIVIAL, WITHIN, Connect, Running, Start, eventually

REAL = ("engine.node.worker", "engine.node.feeder")
TRIES = PATIENCE.before_ready


def last_words(running: Running) -> str:
    """What stands on stderr for the operator, after the log."""
    assert running.process.wait(WITHIN) == 1
    return running.said().strip().splitlines()[-1]


def missing_certificate(running: Running) -> str:
    running.files[0].unlink()
    return "server.pem"


def bad_key(running: Running) -> str:
    running.change_key(b"short")
    return "a key has 32 bytes, this file 5"


def key_for_everybody(running: Running) -> str:
    running.key.chmod(0o644)
    return "others than its owner may read this key"


@pytest.mark.parametrize("cause", [missing_certificate, bad_key, key_for_everybody])
def test_wrong_files_end_the_node_at_the_first_try(start: Start, cause: Callable[[Running], str]) -> None:
    running = start(modules=REAL, launch=False)
    said = cause(running)
    running.launch()
    words = last_words(running)
    assert said in words
    assert " failed: " in words  # once, not several times in a row
    assert not running.supervisor_events("failed")


@pytest.mark.parametrize(("cause", "code"), [(bad_key, 2), (missing_certificate, 2)])
def test_the_command_ends_with_the_code_for_wrong_configuration(
    start: Start, cause: Callable[[Running], str], code: int
) -> None:
    running = start(launch=False)
    said = cause(running)
    running.launch("-m", "admin.cli", "node", "--config", str(running.config))
    assert running.process.wait(WITHIN) == code
    assert said in running.said().strip().splitlines()[-1]


def test_a_module_that_cannot_be_loaded_is_tried_a_few_times(start: Start) -> None:
    running = start(modules=("tests.support.no_such_module", TRIVIAL[1]))
    assert last_words(running).endswith(f"failed {TRIES} times in a row: it ended before it was ready")
    names = [line["service"] for line in running.supervisor_events("failed")]
    assert TRIES is not None
    assert max(names.count("worker-1"), names.count("worker-2")) == TRIES - 1  # the last is the giving up
    assert len(running.events("gave_up")) >= 1


def test_a_replica_that_does_not_fit_is_one_sentence(start: Start) -> None:
    running = start(modules=REAL, map_size=1 << 62)
    assert last_words(running) == f"replica.map-size: {1 << 62} bytes of address space are not to be had here"


def test_one_that_served_is_tried_for_ever_and_the_others_go_on(start: Start, callers: Connect) -> None:
    running = start().wait_ready()
    victim, other = running.described()["pids"]["workers"]
    running.refuse_starts("the key file is not a key")
    running.kill(victim, signal.SIGKILL)
    assert TRIES is not None
    eventually(lambda: len(running.supervisor_events("failed")) > TRIES)
    assert running.process.poll() is None
    assert callers(running).ask() == other
    children = running.status("/statusz")[1]["children"]
    assert [child["last_fault"] for child in children] == ["the key file is not a key", "", ""]
    running.refuse_starts("")
    running.wait_replaced(victim)
