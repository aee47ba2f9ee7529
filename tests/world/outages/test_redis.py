"""Redis is lost, hangs, cannot be reached, forgets, splits or lies, and the ledger is up: no EDP notices."""

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.consent.records import ConsentKey
from engine.feed.entries import Entry, EntryKind, seal
from engine.feed.questions import Answer, seal_answer
from engine.feed.redis_names import (
    ANSWER_FIELD,
    HEAD,
    STREAM,
    STREAM_FIELD,
    answers_key,
    record_key,
    stream_id,
    token_key,
)
from tests.support.outages import BEYOND_SILENCE, CURRENT, KNOWING, PLAIN, Site, Watch, asked
from tests.support.sandbox import eventually
from tests.support.tokens_by_digest import decide, digest_of
from tests.support.valkey import Valkey

ALL_CURRENT = {KNOWING: {CURRENT}, PLAIN: {CURRENT}}
STRANGER = b"x" * 32


@contextmanager
def nothing_noticed(site: Site) -> Iterator[Watch]:
    """Every EDP is told `current` through the whole block, and until all is as it was; nothing fails."""
    with asked(site) as watch:
        began = time.monotonic()
        yield watch
        site.wait_asking_redis()
        assert watch.revoke().told in site.effects()
        assert site.readyz() == (200, "current")
    assert watch.told(began) == ALL_CURRENT
    assert watch.failures() == []


def outlast(site: Site, watch: Watch) -> None:
    """A revocation in the first instant, then longer than a node is current by itself."""
    checks = site.feed_checks()
    assert watch.revoke().told in site.effects()
    watch.go_on(BEYOND_SILENCE)
    assert watch.revoke(PLAIN).told in site.effects()
    assert site.feed_checks() > checks  # by the other way


def test_redis_killed_and_started_again(site: Site) -> None:
    with nothing_noticed(site) as watch:
        site.redis.kill()
        outlast(site, watch)
        site.redis.restart()


def test_redis_that_hangs(site: Site) -> None:
    with nothing_noticed(site) as watch:
        site.redis.pause()
        outlast(site, watch)
        site.redis.resume()


@pytest.mark.parametrize("how", ["refused", "held", "cut"])
def test_redis_that_the_node_cannot_reach(site: Site, how: str) -> None:
    with nothing_noticed(site) as watch:
        if how == "refused":
            site.redis_way.refuse()
        elif how == "held":
            site.redis_way.hold()
        else:
            site.redis_way.cut_after(700)  # in the middle of some entry or answer
        outlast(site, watch)
        site.redis_way.flow()


def test_redis_that_takes_no_more_writes(site: Site) -> None:
    with nothing_noticed(site) as watch:
        site.redis.call("CONFIG", "SET", "maxmemory", "1")
        outlast(site, watch)
        site.redis.call("CONFIG", "SET", "maxmemory", "0")


def test_redis_flushed(site: Site) -> None:
    with nothing_noticed(site) as watch:
        site.redis.call("FLUSHALL")
        assert watch.revoke().told in site.effects()
        site.redis.call("FLUSHALL")
        eventually(lambda: site.redis.call("GET", HEAD) is not None)
        watch.go_on(0.5)


def test_redis_rolled_back(site: Site) -> None:
    with nothing_noticed(site) as watch, older_files(site) as files:
        assert watch.revoke().told in site.effects()
        site.redis.kill()
        shutil.rmtree(site.redis.directory / "appendonlydir")
        shutil.copytree(files, site.redis.directory / "appendonlydir")
        site.redis.restart()
        assert watch.revoke(PLAIN).told in site.effects()


def test_redis_split_with_the_node_on_the_side_that_is_left_behind(site: Site) -> None:
    with nothing_noticed(site) as watch, older_files(site) as files:
        other = files.parent / "other"
        shutil.copytree(files, other / "appendonlydir")
        left_behind = Valkey(other)
        try:
            site.redis_way.upstream = Path(left_behind.url.removeprefix("unix://"))
            site.redis_way.cut()
            outlast(site, watch)
        finally:
            site.redis_way.upstream = site.redis_socket
            site.redis_way.cut()
            left_behind.stop()


@contextmanager
def older_files(site: Site) -> Iterator[Path]:
    """A copy of Redis's files as they are now, in a folder with a short name."""
    with tempfile.TemporaryDirectory(prefix="ccs-") as short:
        copy = Path(short) / "copied"
        shutil.copytree(site.redis.directory / "appendonlydir", copy)
        yield copy


def test_redis_with_forged_entries_answers_records_and_token_records(site: Site) -> None:
    seen, unseen = site.tokens(KNOWING, 2)
    with nothing_noticed(site) as watch:
        ended = watch.revoke()
        assert ended.told in site.effects()
        forge(site, ended.body["consent_id"])
        assert watch.revoke().told in site.effects()
        genuine = site.redis.call("GET", token_key(digest_of(seen["token"])))
        site.redis.call("SET", token_key(digest_of("made up")), genuine)
        site.redis.call("SET", token_key(digest_of(unseen["token"])), STRANGER + genuine[len(STRANGER) :])
        with site.connected(KNOWING) as edp:
            eventually(lambda: decide(edp, seen["token"], seen["token"]) is True)
            assert decide(edp, "made up", seen["token"]) is not True
            assert decide(edp, unseen["token"], seen["token"]) is not True
        eventually(lambda: site.metric("ccs_feed_forged_total") >= 1)
        eventually(lambda: "a record of a consent or a token failed its check" in site.node.said())


def forge(site: Site, consent_id: str) -> None:
    """An end taken back, in the stream, as the newest head, and as a record; and answers to whoever asks."""
    incarnation, _, seq = site.redis.call("GET", HEAD).decode().partition(" ")
    key = ConsentKey(uuid.UUID(consent_id).bytes)
    place = record_key(EntryKind.CONSENT, key)
    lie = seal(Entry(incarnation, int(seq) + 1, EntryKind.CONSENT, key, b"\x90"), STRANGER)
    site.redis.call("SET", place, lie)
    for name in site.redis.call("KEYS", answers_key("*")):
        instance = name.removeprefix(answers_key("")).decode()
        answer = Answer(instance, "0" * 32, incarnation, int(seq))
        site.redis.call("XADD", name, "*", ANSWER_FIELD, seal_answer(answer, STRANGER))
    site.redis.call("XADD", STREAM, stream_id(int(seq) + 1), STREAM_FIELD, lie)
    site.redis.call("SET", HEAD, json.dumps({"seq": seq}))
