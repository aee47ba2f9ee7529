"""A part of a node is lost, hangs, has no room, or has a wrong date; Redis and the ledger are up."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.decision.freshness import MAX_SILENCE
from tests.support.outages import (
    ACKNOWLEDGED,
    BEYOND_SILENCE,
    CURRENT,
    INACTIVE,
    KNOWING,
    LAST_KNOWN,
    PLAIN,
    TURNED_AWAY,
    WAITED_OUT,
    Site,
    Watch,
    asked,
)
from tests.support.sandbox import eventually, gone

ALL_CURRENT = {KNOWING: {CURRENT}, PLAIN: {CURRENT}}
LAST_KNOWN_OR_503 = {KNOWING: {LAST_KNOWN}, PLAIN: {TURNED_AWAY}}
EFFECTIVE = {ACKNOWLEDGED, WAITED_OUT}
SMALL_MAP = 1 << 18  # bytes: some six hundred consents
MANY = 800
HOUR = 3_600.0


def test_feeder_killed(site: Site) -> None:
    with asked(site) as watch:
        began, victim = time.monotonic(), site.feeder
        os.kill(victim, signal.SIGKILL)
        assert watch.revoke().told in EFFECTIVE
        eventually(lambda: site.feeder not in (0, victim))
        site.wait_state(CURRENT)
    assert watch.told(began)[KNOWING] <= {CURRENT, LAST_KNOWN}
    assert watch.told(began)[PLAIN] <= {CURRENT, TURNED_AWAY}
    assert watch.failures() == []


def test_feeder_that_hangs(site: Site) -> None:
    with asked(site) as watch:
        os.kill(site.feeder, signal.SIGSTOP)
        lost_at = time.monotonic()
        assert watch.revoke().told == WAITED_OUT
        stand_still(site, watch, lost_at)
        os.kill(site.feeder, signal.SIGCONT)
    assert watch.failures() == []


def stand_still(site: Site, watch: Watch, lost_at: float) -> None:
    """The node is told nothing new, or cannot keep it."""
    for edp, outcome in ((KNOWING, LAST_KNOWN), (PLAIN, TURNED_AWAY)):
        watch.wait_told(edp, outcome)
    assert site.readyz() == (200, "last_known")
    watch.go_on(lost_at + BEYOND_SILENCE - time.monotonic())
    assert watch.told(lost_at + MAX_SILENCE, time.monotonic()) == LAST_KNOWN_OR_503


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
def test_worker_lost(site: Site, how: signal.Signals) -> None:
    """Killed or hanging, it costs the answers on its own connections, and nobody else's."""
    with asked(site, connections=3) as watch:
        began, victim = time.monotonic(), site.workers[0]
        os.kill(victim, how)
        assert watch.revoke().told in site.effects()
        watch.go_on(BEYOND_SILENCE)
        if how == signal.SIGKILL:
            eventually(lambda: gone(victim) and len(site.workers) == 2 and victim not in site.workers)
        else:
            os.kill(victim, signal.SIGCONT)
    assert len(watch.failures()) <= 6, "each connection asks once and is opened anew"
    assert {s.outcome for s in watch.seen if s.sent > began} <= {CURRENT, INACTIVE, "failed"}
    assert all(CURRENT in each for each in watch.told(began).values())


def test_supervisor_killed_and_started_again(site: Site) -> None:
    with asked(site) as watch:
        ended = watch.revoke()
        lost_at, children = time.monotonic(), site.children()
        site.node.kill()
        eventually(lambda: all(gone(pid) for pid in children))
        site.start_node()
        back_at = time.monotonic()
        assert watch.revoke(PLAIN).told in EFFECTIVE  # of the feeder that died nobody hears
    assert ended.told in site.effects()
    assert watch.told(back_at) == ALL_CURRENT
    assert all(lost_at - 1 < s.sent < back_at for s in watch.failures())


def test_replica_whose_map_is_full(site: Site) -> None:
    site.change_node_settings("[replica]\n", f"[replica]\nmap-size = {SMALL_MAP}\n")
    site.forget_replica()
    with asked(site) as watch:
        site.tokens(KNOWING, MANY)
        for edp, outcome in ((KNOWING, LAST_KNOWN), (PLAIN, TURNED_AWAY)):
            watch.wait_told(edp, outcome)
        lost_at = time.monotonic()
        assert "replica_full" in site.node.said()
        assert watch.revoke().told == WAITED_OUT
        watch.go_on(1.0)
        assert watch.told(lost_at) == LAST_KNOWN_OR_503
        assert site.readyz() == (200, "last_known")
        assert watch.failures() == []
        site.change_node_settings()  # with room, as the operator gives it
        site.restart_node()
        back_at = time.monotonic()
    assert watch.told(back_at) == ALL_CURRENT


def test_disk_under_the_replica_is_full(site: Site) -> None:
    with asked(site) as watch, no_room_beyond(site.feeder, site.replica_bytes):
        feeder = site.feeder
        site.tokens(KNOWING, MANY)
        for edp, outcome in ((KNOWING, LAST_KNOWN), (PLAIN, TURNED_AWAY)):
            watch.wait_told(edp, outcome)
        lost_at = time.monotonic()
        assert watch.revoke().told == WAITED_OUT
        watch.go_on(1.0)
        assert watch.told(lost_at) == LAST_KNOWN_OR_503
        assert site.readyz() == (200, "last_known")
        make_room(feeder)
        site.wait_state(CURRENT)
        assert site.feeder == feeder, "it was not to die of that"
        eventually(lambda: "replica_has_room" in site.node.said())
    assert watch.failures() == []


@contextmanager
def no_room_beyond(pid: int, size: int) -> Iterator[None]:
    """As a full disk has none: whatever the process writes beyond that many bytes of a file is refused."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        if not gone(pid):
            make_room(pid)


def make_room(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("wrong_by", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_wall_clock_of_the_node_set_wrong(site: Site, wrong_by: float) -> None:
    """By more than a token lives: every token has expired, or is not issued yet. Freshness goes by another clock."""
    with asked(site) as watch:
        site.set_wall_wrong_by(wrong_by)
        wrong_from = time.monotonic() + 0.2  # whoever is in the middle of an answer
        assert watch.revoke().told in site.effects()
        watch.go_on(BEYOND_SILENCE)
        assert site.readyz() == (200, "current")
        wrong_until = time.monotonic()
        site.set_wall_wrong_by(0.0)
        for edp in (KNOWING, PLAIN):
            watch.wait_told(edp, CURRENT)
    assert watch.told(wrong_from, wrong_until) == {KNOWING: {INACTIVE}, PLAIN: {INACTIVE}}
    assert watch.failures() == []
