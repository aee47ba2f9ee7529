"""The ledger is lost - the admin application, its database, the ways to it - alone or together with Redis."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.decision.freshness import MAX_SILENCE
from tests.support.outages import (
    BEYOND_SILENCE,
    CURRENT,
    FAILED,
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
from tests.support.postgres import PostgresServer

ALL_CURRENT = {KNOWING: {CURRENT}, PLAIN: {CURRENT}}
LAST_KNOWN_OR_503 = {KNOWING: {LAST_KNOWN}, PLAIN: {TURNED_AWAY}}
IMPATIENT = 1.0  # seconds a caller waits for an answer that will not come


@contextmanager
def nobody_can_say(site: Site) -> Iterator[Watch]:
    """The block takes everything away and gives it back. Nothing is current from MAX_SILENCE after the loss on."""
    with asked(site) as watch:
        ended = watch.revoke()
        assert ended.told in site.effects()
        yield watch
        for edp in (KNOWING, PLAIN):
            watch.wait_told(edp, CURRENT)
        assert watch.revoke(PLAIN).told in site.effects()
    assert {s.outcome for s in watch.seen if s.consent_id == ended.body["consent_id"] and s.sent > ended.at} <= {
        INACTIVE,
        TURNED_AWAY,
    }
    assert watch.failures() == []


def outlast(site: Site, watch: Watch, lost_at: float) -> None:
    """Long enough that nothing carries a node; what each EDP is told then."""
    for edp, outcome in ((KNOWING, LAST_KNOWN), (PLAIN, TURNED_AWAY)):
        watch.wait_told(edp, outcome)
    watch.go_on(lost_at + BEYOND_SILENCE - time.monotonic())
    assert site.readyz() == (200, "last_known")
    assert site.page("/readyz/current")[0] == 503
    assert watch.told(lost_at + MAX_SILENCE, time.monotonic()) == LAST_KNOWN_OR_503


def test_admin_killed_and_started_again(site: Site) -> None:
    with nobody_can_say(site) as watch:
        site.admin.kill()
        lost_at = time.monotonic()
        assert watch.revoke(patience=IMPATIENT).told == "no answer"
        outlast(site, watch, lost_at)
        site.start_admin()


def test_admin_that_hangs(site: Site) -> None:
    with nobody_can_say(site) as watch:
        site.admin.pause()
        lost_at = time.monotonic()
        assert watch.revoke(patience=IMPATIENT).told == "no answer"
        outlast(site, watch, lost_at)
        site.admin.resume()


def test_postgres_killed_and_started_again(on_postgres: Site, postgres_server: PostgresServer) -> None:
    with nobody_can_say(on_postgres) as watch:
        postgres_server.crash()
        lost_at = time.monotonic()
        assert watch.revoke().told == "ledger_unavailable"
        outlast(on_postgres, watch, lost_at)
        postgres_server.start()


def test_postgres_that_hangs(on_postgres: Site, postgres_server: PostgresServer) -> None:
    with nobody_can_say(on_postgres) as watch:
        postgres_server.pause()
        lost_at = time.monotonic()
        assert watch.revoke(patience=IMPATIENT).told == "no answer"
        outlast(on_postgres, watch, lost_at)
        postgres_server.revive()


@pytest.mark.parametrize("how", ["refused", "held"])
def test_feed_over_https_that_the_node_cannot_reach(site: Site, how: str) -> None:
    with asked(site) as watch:
        began = time.monotonic()
        if how == "refused":
            site.feed_way.refuse()
        else:
            site.feed_way.hold()
        watch.go_on(BEYOND_SILENCE)
        assert watch.revoke().told in site.effects()
        assert site.readyz() == (200, "current")
        site.feed_way.flow()
    assert watch.told(began) == ALL_CURRENT
    assert watch.failures() == []


@pytest.mark.parametrize("first", ["ledger", "redis"])
def test_redis_and_ledger_lost_together(on_postgres: Site, postgres_server: PostgresServer, first: str) -> None:
    with nobody_can_say(on_postgres) as watch:
        postgres_server.crash()
        on_postgres.redis.kill()
        lost_at = time.monotonic()
        assert watch.revoke().told == "ledger_unavailable"
        outlast(on_postgres, watch, lost_at)
        if first == "ledger":
            postgres_server.start()
            for edp in (KNOWING, PLAIN):
                watch.wait_told(edp, CURRENT)
            on_postgres.redis.restart()
        else:
            on_postgres.redis.restart()
            on_postgres.wait_asking_redis()
            assert watch.told(time.monotonic() - 0.3) == LAST_KNOWN_OR_503
            postgres_server.start()


def test_node_restarted_while_both_are_lost(site: Site) -> None:
    with asked(site) as watch:
        ended = watch.revoke()
        site.redis.kill()
        site.admin.kill()
        lost_at = time.monotonic()
        for edp, outcome in ((KNOWING, LAST_KNOWN), (PLAIN, TURNED_AWAY)):
            watch.wait_told(edp, outcome)
        site.restart_node("/readyz")
        back_at = time.monotonic()
        for edp, outcome in ((KNOWING, LAST_KNOWN), (PLAIN, TURNED_AWAY)):
            watch.wait_told(edp, outcome)
        assert site.readyz() == (200, "last_known")
        assert watch.told(back_at) == LAST_KNOWN_OR_503
        lost_until = time.monotonic()
        site.start_admin()
        site.redis.restart()
    assert ended.told in site.effects()
    told = [s.outcome for s in watch.seen if s.consent_id == ended.body["consent_id"] and s.sent > back_at]
    assert set(told) == {INACTIVE}, "the node has forgotten an end that it had heard of"
    assert set(watch.standing(KNOWING, lost_at + MAX_SILENCE, lost_until)) <= {LAST_KNOWN, FAILED}
    assert all(lost_at < s.sent < back_at for s in watch.failures())


def test_node_cut_off_from_redis_and_ledger(site: Site) -> None:
    with nobody_can_say(site) as watch:
        site.redis_way.hold()
        site.feed_way.hold()
        lost_at = time.monotonic()
        assert watch.revoke().told == WAITED_OUT
        outlast(site, watch, lost_at)
        site.redis_way.flow()
        site.feed_way.flow()
