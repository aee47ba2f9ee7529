"""The feed of a node's process: its files are checked at once, its client is made at the first call, once."""

from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from engine.config import BadConfig, Feed
from engine.feed.https import FeedUnavailable
from engine.node.feed_access import FeedAccess
from tests.support.feed_services import feed_service
from tests.support.mutual_tls import Authority
from tests.support.pki import Pki
from tests.support.projection import real_ledger


def settings(authority: Authority, **changed: Path) -> Feed:
    certificate, key = authority.issue("node")
    files = {"ca_file": authority.file, "certificate_file": certificate, "key_file": key} | changed
    return Feed(url="https://localhost:1/feed", mac_key_files=(), meter_key_file=key, **files)


def test_files_that_cannot_be_read_are_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"absent\.pem"):
        FeedAccess(settings(Authority(tmp_path), ca_file=tmp_path / "absent.pem"))


def test_broken_files_are_refused_at_a_reload(tmp_path: Path) -> None:
    found = settings(Authority(tmp_path))
    feed = FeedAccess(found)
    feed.reload()
    found.certificate_file.write_text("no certificate")
    with pytest.raises(BadConfig, match=found.certificate_file.name):
        feed.reload()


async def test_a_reload_takes_another_authority_of_the_feed_and_a_broken_file_leaves_the_old(
    tmp_path: Path, pki: Pki
) -> None:
    stranger, believed, node = Authority(tmp_path).file.read_bytes(), tmp_path / "feed-ca.pem", pki.client("node-1")
    believed.write_bytes(stranger)
    async with real_ledger(tmp_path) as ledger, feed_service(ledger, pki) as service:
        found = Feed(
            url=service.url,
            ca_file=believed,
            certificate_file=node.certificate_file,
            key_file=node.key_file,
            mac_key_files=(),
            meter_key_file=node.key_file,
        )
        async with aclosing(FeedAccess(found)) as feed:
            with pytest.raises(FeedUnavailable):
                await feed.keys()
            believed.write_bytes(stranger + pki.ca_file.read_bytes())
            feed.reload()
            assert await feed.keys()

            believed.write_bytes(b"no certificate")
            with pytest.raises(BadConfig, match=believed.name):
                feed.reload()
            assert await feed.keys()
            believed.write_bytes(stranger)
            feed.reload()
            with pytest.raises(FeedUnavailable):  # although a connection was open
                await feed.keys()


async def test_calls_at_once_share_one_client(tmp_path: Path) -> None:
    feed, failed = FeedAccess(settings(Authority(tmp_path))), []

    async def call() -> None:
        try:
            await feed.claim("consent", "edp-a", "share")
        except FeedUnavailable as fault:
            failed.append(fault)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(call)
    assert len(failed) == 3  # nobody listens there
    client = feed._client
    with pytest.raises(FeedUnavailable):
        await feed.keys()
    assert feed._client is client
    await feed.aclose()


async def test_one_that_was_never_called_closes(tmp_path: Path) -> None:
    feed = FeedAccess(settings(Authority(tmp_path)))
    await feed.aclose()
    assert feed._client is None
