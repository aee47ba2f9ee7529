"""A guard's own report, over mutual TLS, to the real service."""

import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from admin.ledger.fallback_reports import REPORT, SHARE
from engine.clock import UnixTime, parse_utc
from engine.guard import config
from engine.guard.evidence import EvidenceLog
from engine.guard.evidence_words import Attempt, Failure, ShareEvidence
from engine.guard.fallback_report import Report
from engine.guard.reporting import FallbackReporter, HttpsPost, NotReported, RefusedReport, Taken
from engine.guard.shares import Reason
from engine.telemetry.host import SystemClock
from tests.admin.reports.test_fallback import rows
from tests.support.admin_service import DATASET, Site
from tests.support.guard_stores import store_settings


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EvidenceLog]:
    opened = EvidenceLog(config.Evidence(), store_settings(tmp_path / "guard"), "edp-1", SystemClock().now)
    yield opened
    opened.close()


@pytest.fixture
async def post(site: Site) -> AsyncIterator[HttpsPost]:
    made = HttpsPost(f"https://localhost:{site.port}", site.pki.client_context("edp-1"))
    yield made
    await made.aclose()


async def made_share(site: Site, consent_id: str) -> ShareEvidence:
    _, shown = await site.call("operator-1", "GET", f"/consents/{consent_id}")
    now = SystemClock().now()
    start = parse_utc(shown["consent"]["data_from"])
    return ShareEvidence(
        at=now - 1.5,
        digest=bytes(32),
        allowed=True,
        reason=Reason.LAST_KNOWN,
        outage_since=now - 60.0,
        client_id="atp-1",
        consent_id=consent_id,
        consent_version=1,
        dataset_id=DATASET,
        data_from=start,
        data_to=UnixTime(start + 1_800),
        answered_at=UnixTime(now - 100),
        as_of=UnixTime(now - 101),
        attempts=(Attempt("https://node-1.example:8440", now - 62.0, 2.0, Failure.TIMEOUT),),
    )


async def test_report_whose_answer_was_lost_is_sent_again_and_counted_once(
    site: Site, log: EvidenceLog, post: HttpsPost
) -> None:
    consent_id = await site.granted()
    log.record_all([await made_share(site, consent_id)] * 3)
    answers: list[Taken] = []

    async def losing(report: Report) -> Taken:
        answers.append(await post(report))
        if len(answers) == 1:
            raise NotReported("the answer was lost")
        return answers[-1]

    async def no_time(_seconds: float) -> None:
        await trio.lowlevel.checkpoint()

    assert await FallbackReporter(log, losing, lambda: 0.5, no_time).report_all() == 3
    assert answers == [Taken(3, 0), Taken(3, 0)]
    assert log.unreported(9) == []
    assert await rows(site, SHARE) == 3
    assert await rows(site, REPORT) == 1
    _, listed = await site.call("operator-1", "GET", "/shares/fallback")
    assert [(row["result"], row["flags"], row["outage_shown"]) for row in listed["shares"]] == [("taken", [], True)] * 3


async def test_refusals_say_whether_another_attempt_helps(site: Site, post: HttpsPost) -> None:
    with pytest.raises(RefusedReport):
        await post(Report((), b"{}", "key-of-nothing"))
    stranger = HttpsPost(f"https://localhost:{site.port}", site.pki.client_context("atp-1"))
    with pytest.raises(NotReported) as refused:
        await stranger(Report((), b"{}", "key-of-nothing"))
    assert not refused.value.again
    await stranger.aclose()
    nobody = HttpsPost("https://localhost:1", site.pki.client_context("edp-1"))
    with pytest.raises(NotReported) as away:
        await nobody(Report((), b"{}", "key-of-nothing"))
    assert away.value.again
    await nobody.aclose()
    distrusting = HttpsPost(f"https://localhost:{site.port}", ssl.create_default_context())
    with pytest.raises(NotReported) as false_friend:
        await distrusting(Report((), b"{}", "key-of-nothing"))
    assert not false_friend.value.again
    await distrusting.aclose()


async def test_share_that_names_an_unknown_consent_is_told_and_done(
    site: Site, log: EvidenceLog, post: HttpsPost
) -> None:
    share = await made_share(site, await site.granted())
    unknown = msgspec.structs.replace(share, consent_id="c0ffee00-1111-4222-8333-444455556666")
    log.record_all([share, unknown])
    assert await FallbackReporter(log, post, lambda: 0.5).report_all() == 2
    assert log.unreported(9) == []
