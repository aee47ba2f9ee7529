"""What was shared in an outage is told until the service has it: how often, how far apart, and what is never lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from admin.reports.fallback_forms import MAX_BYTES, read_fallback_report
from engine.clock import Seconds, UnixTime
from engine.guard import config, evidence
from engine.guard.evidence import EvidenceLog
from engine.guard.evidence_chain import Checked, check_lines, entry_text, line_of
from engine.guard.evidence_words import Attempt, Failure, OutageEvidence, ShareEvidence
from engine.guard.fallback_report import MAX_SHARES, Report, report_of
from engine.guard.memory import MemoryFull
from engine.guard.reporting import (
    LONG_REST,
    LOOK_EVERY,
    REST,
    RUNS_BEFORE_LONG_REST,
    FallbackReporter,
    NotReported,
    RefusedReport,
    Taken,
)
from engine.guard.shares import Reason
from tests.support.guard_stores import OWNER, Wall, store_settings
from tests.support.known_tokens import CONSENT, NOW

ATTEMPTS = tuple(
    Attempt(f"https://node-{number}.example:8440", NOW - 60 + number, 2.0, Failure.SERVER, 503) for number in range(40)
)


def share(number: int = 0, **members: Any) -> ShareEvidence:
    made = ShareEvidence(
        at=NOW + number + 0.5,
        digest=bytes((number % 256,)) * 32,
        allowed=True,
        reason=Reason.LAST_KNOWN,
        outage_since=float(NOW),
        client_id="atp-1",
        consent_id=CONSENT,
        consent_version=3,
        dataset_id="hh-electricity-import",
        data_from=UnixTime(NOW - 3_600),
        data_to=NOW,
        answered_at=UnixTime(NOW - 60),
        as_of=UnixTime(NOW - 61),
        attempts=ATTEMPTS[:3],
    )
    return msgspec.structs.replace(made, **members)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EvidenceLog]:
    opened = EvidenceLog(config.Evidence(), store_settings(tmp_path), OWNER, Wall())
    yield opened
    opened.close()


def fill(log: EvidenceLog) -> None:
    for number in range(10_000):
        log.record(share(number))


def record_as_later_releases_do(log: EvidenceLog, entry: ShareEvidence, monkeypatch: pytest.MonkeyPatch) -> str:
    """With a reason that this one does not know; its evidence id."""
    text = entry_text(entry).replace(b'"last_known"', b'"by_another_rule"')
    with monkeypatch.context() as patched:
        patched.setattr(evidence, "entry_text", lambda _: text)
        return log.record(entry)


class Service:
    """Takes what it is given, or fails as it was told. Counts in `said`."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.reports: list[Report] = []

    async def __call__(self, report: Report) -> Taken:
        self.reports.append(report)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome
        return Taken(len(report.links), 0)


class Clock:
    """Sleeps that are noted, and end after so many."""

    def __init__(self, most: int = 1_000) -> None:
        self.slept: list[float] = []
        self._most = most

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) >= self._most:
            raise Enough


class Enough(Exception):
    """The test has seen what it wants."""


def reporter(log: EvidenceLog, service: Service, clock: Clock, draw: float = 1.0) -> FallbackReporter:
    return FallbackReporter(log, service, lambda: draw, clock.sleep)


class TestReport:
    """What is sent."""

    def test_service_can_read_the_largest_one(self, log: EvidenceLog) -> None:
        entries = [share(n, outage_since=float(NOW - n), attempts=ATTEMPTS, share_id="s" * 200) for n in range(100)]
        log.record_all(entries)
        report = report_of(log.unreported(MAX_SHARES))
        assert len(report.body) < MAX_BYTES
        read = read_fallback_report(report.body, UnixTime(NOW + 1_000))
        assert len(read.shares) == MAX_SHARES
        assert len(read.outages) == 100

    def test_attempts_of_one_outage_are_told_once_the_newest_of_them(self, log: EvidenceLog) -> None:
        log.record_all([share(1, attempts=ATTEMPTS), share(2, attempts=ATTEMPTS[20:])])
        (outage,) = msgspec.json.decode(report_of(log.unreported(9)).body)["outages"]
        assert [one["address"] for one in outage["attempts"]] == [one.address for one in ATTEMPTS[8:]]

    def test_same_shares_give_the_same_report_after_a_restart(self, tmp_path: Path) -> None:
        reports = []
        for _ in range(2):
            opened = EvidenceLog(config.Evidence(), store_settings(tmp_path), OWNER, Wall())
            if not reports:
                opened.record_all([share(1), share(2)])
            made = report_of(opened.unreported(9))
            reports.append((made.body, made.key))
            opened.close()
        assert reports[0] == reports[1]

    def test_nothing_of_the_token_but_its_digest_is_told(self, log: EvidenceLog) -> None:
        log.record(share(answer=b"eyJ.signed.answer"))
        assert b"eyJ" not in report_of(log.unreported(9)).body


class TestReporter:
    """How it is sent."""

    async def test_all_is_told_in_reports_of_a_hundred_and_nothing_twice(self, log: EvidenceLog) -> None:
        ids = log.record_all([share(number) for number in range(250)])
        service = Service()
        assert await reporter(log, service, Clock()).report_all() == 250
        told = [[link.evidence_id for link in report.links] for report in service.reports]
        assert [len(one) for one in told] == [100, 100, 50]
        assert [one for report in told for one in report] == ids
        assert await reporter(log, service, Clock()).report_all() == 0

    async def test_four_attempts_with_the_waits_of_the_strategy(self, log: EvidenceLog) -> None:
        log.record(share())
        service, clock = Service(*[NotReported("no")] * 4), Clock()
        with pytest.raises(NotReported):
            await reporter(log, service, clock).report_all()
        assert clock.slept == [0.5, 1.0, 2.0]
        assert len(service.reports) == 4
        assert len({report.key for report in service.reports}) == 1
        assert len(log.unreported(9)) == 1

    async def test_jitter_is_full_and_retry_after_is_heeded_up_to_a_minute(self, log: EvidenceLog) -> None:
        log.record(share())
        asks = [NotReported("no", retry_after=Seconds(after)) for after in (0.0, 7.0, 3_600.0)]
        clock = Clock()
        await reporter(log, Service(*asks), clock, draw=0.25).report_all()
        assert clock.slept == [0.125, 7.0, 60.0]

    async def test_what_cannot_help_is_not_tried_again(self, log: EvidenceLog) -> None:
        log.record(share())
        service, clock = Service(NotReported("no", again=False)), Clock()
        with pytest.raises(NotReported):
            await reporter(log, service, clock).report_all()
        assert (len(service.reports), clock.slept) == (1, [])

    async def test_share_that_the_service_cannot_read_holds_up_no_other_and_stays(self, log: EvidenceLog) -> None:
        ids = log.record_all([share(number) for number in range(8)])

        class Picky(Service):
            async def __call__(self, report: Report) -> Taken:
                await super().__call__(report)
                if any(link.evidence_id == ids[5] for link in report.links):
                    raise RefusedReport("no")
                return Taken(len(report.links), 0)

        service = Picky()
        made = reporter(log, service, Clock())
        assert await made.report_all() == 7
        assert [link.evidence_id for link in log.unreported(9)] == [ids[5]]
        asked = len(service.reports)
        log.record(share(9))
        assert await made.report_all() == 1
        assert len(service.reports) == asked + 1

    async def test_share_that_this_release_cannot_read_holds_up_no_other_and_stays(
        self, log: EvidenceLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after going back to an earlier release. It is as it was recorded, and bound to what stands around it."""
        before = log.record_all([share(number) for number in range(120)])
        unreadable = record_as_later_releases_do(log, share(120), monkeypatch)
        after = log.record_all([share(number) for number in range(121, 124)])
        service = Service()
        made = reporter(log, service, Clock())
        with capture_logs() as logs:
            assert await made.report_all() == 123
            log.record(share(200))
            assert await made.report_all() == 1
        told = [link.evidence_id for report in service.reports for link in report.links]
        assert told[:-1] == before + after
        (left,) = log.unreported(9)
        assert (left.evidence_id, b"by_another_rule" in left.entry) == (unreadable, True)
        (said,) = [line for line in logs if line["log_level"] == "error"]
        assert (said["event"], said["evidence_id"]) == ("fallback_share_unreadable", unreadable)
        assert said["hash"] == left.hash.hex()
        assert check_lines(line_of(link) for link in log.links()) == Checked(125)

    async def test_nothing_is_sent_while_the_outage_lasts(self, log: EvidenceLog) -> None:
        log.record(OutageEvidence(float(NOW), 0.0, ()))
        log.record(share())
        service, clock = Service(), Clock(3)
        with pytest.raises(Enough):
            await reporter(log, service, clock).run()
        assert service.reports == []
        log.record(OutageEvidence(float(NOW), float(NOW + 60), ()))
        with pytest.raises(Enough):
            await reporter(log, service, Clock(1)).run()
        assert len(service.reports) == 1

    async def test_a_log_full_of_shares_is_reported_and_takes_the_end_of_their_outage(self, tmp_path: Path) -> None:
        began, ended = OutageEvidence(float(NOW), 0.0, ()), OutageEvidence(float(NOW), float(NOW + 60), ATTEMPTS)
        log = EvidenceLog(config.Evidence(max_bytes=1 << 18), store_settings(tmp_path), OWNER, Wall())
        log.record(began)
        with pytest.raises(MemoryFull):
            fill(log)
        log.record(ended)
        assert log.open_outage() is None
        service = Service()
        with pytest.raises(Enough):
            await FallbackReporter(log, service, lambda: 1.0, Clock(1).sleep, in_outage=lambda: False).run()
        assert log.unreported(1) == []
        log.record(share(1))
        log.close()

    async def test_rests_grow_after_ten_runs_in_vain(self, log: EvidenceLog) -> None:
        log.record(share())
        failures = [NotReported("no", again=False)] * (RUNS_BEFORE_LONG_REST + 1)
        clock = Clock(RUNS_BEFORE_LONG_REST + 2)
        with pytest.raises(Enough):
            await reporter(log, Service(*failures), clock).run()
        assert clock.slept == [REST] * (RUNS_BEFORE_LONG_REST - 1) + [LONG_REST] * 2 + [LOOK_EVERY]
