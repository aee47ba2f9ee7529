"""Reports of fallback shares, whatever the ledger is kept in: once each, also where calls meet."""

from collections.abc import AsyncIterator, Mapping

import pytest
import trio

from admin.config import Ledger as LedgerConfig
from admin.ledger.fallback_reports import PER_MINUTE, FallbackReports, TooManyReports
from admin.ledger.reports import ReportMismatch, Reports
from admin.ledger.sql import open_ledger
from engine.consent.records import ClientId
from tests.support.ledger import HandClock

EDP, OTHER = ClientId("edp-1"), ClientId("edp-2")
DIGEST = bytes(range(32))


def answer(before: Mapping[str, bytes]) -> bytes:
    return ",".join(sorted(before)).encode()


class FallbackReportsContract:
    """Subclasses give `ledger_settings`: settings of a database that is still empty."""

    @pytest.fixture
    async def reports(self, ledger_settings: LedgerConfig) -> AsyncIterator[FallbackReports]:
        clock = HandClock()
        async with open_ledger(ledger_settings, clock, wall=clock.wall) as ledger:
            yield FallbackReports(ledger.database, clock.wall)

    async def test_share_is_kept_once_for_each_edp(self, reports: FallbackReports) -> None:
        assert await reports.take(EDP, "key-1", DIGEST, {"a": b"1", "b": b"2"}, answer) == (b"", False)
        assert await reports.take(EDP, "key-2", DIGEST, {"b": b"3", "c": b"4"}, answer) == (b"b", False)
        assert await reports.take(OTHER, "key-1", DIGEST, {"a": b"5"}, answer) == (b"", False)
        found = {(one.client_id, one.evidence_id): one.body for one in await reports.newest(10)}
        assert found == {(EDP, "a"): b"1", (EDP, "b"): b"2", (EDP, "c"): b"4", (OTHER, "a"): b"5"}
        assert {one.evidence_id for one in await reports.newest(10, EDP)} == {"a", "b", "c"}
        assert len(await reports.newest(2)) == 2

    async def test_nodes_report_is_told_apart_from_its_repeat(self, ledger_settings: LedgerConfig) -> None:
        clock = HandClock()
        async with open_ledger(ledger_settings, clock, wall=clock.wall) as ledger:
            reports = Reports(ledger.database, clock.wall)
            assert await reports.take(ClientId("node-1"), "key-12345", b"[]") is True
            assert await reports.take(ClientId("node-1"), "key-12345", b"[]") is False
            with pytest.raises(ReportMismatch):
                await reports.take(ClientId("node-1"), "key-12345", b"[1]")

    async def test_same_key_is_answered_as_the_first_time(self, reports: FallbackReports) -> None:
        await reports.take(EDP, "key-1", DIGEST, {"a": b"1"}, answer)
        assert await reports.take(EDP, "key-1", DIGEST, {"a": b"1"}, answer) == (b"", True)
        with pytest.raises(ReportMismatch):
            await reports.take(EDP, "key-1", bytes(32), {"x": b"1"}, answer)
        assert {one.evidence_id for one in await reports.newest(10)} == {"a"}

    async def test_an_edp_may_report_so_often_a_minute_and_the_rest_is_told_when_to_come_again(
        self, ledger_settings: LedgerConfig
    ) -> None:
        clock = HandClock()
        async with open_ledger(ledger_settings, clock, wall=clock.wall) as ledger:
            here, there = FallbackReports(ledger.database, clock.wall), FallbackReports(ledger.database, clock.wall)
            for number in range(PER_MINUTE):
                clock.time += number == 1  # the first came a second before the others
                await (here, there)[number % 2].take(EDP, f"key-{number}", DIGEST, {f"s-{number}": b"1"}, answer)
            with pytest.raises(TooManyReports) as caught:
                await there.take(EDP, "key-more", DIGEST, {"more": b"1"}, answer)
            assert caught.value.retry_after == 59
            assert await here.take(EDP, "key-0", DIGEST, {"s-0": b"1"}, answer) == (b"", True)  # told before
            assert await here.take(OTHER, "key-1", DIGEST, {"a": b"1"}, answer) == (b"", False)
            assert "more" not in {one.evidence_id for one in await here.newest(1_000, EDP)}
            clock.time += 59
            assert await there.take(EDP, "key-more", DIGEST, {"more": b"1"}, answer) == (b"", False)
            with pytest.raises(TooManyReports):
                await here.take(EDP, "key-again", DIGEST, {"again": b"1"}, answer)

    async def test_call_that_comes_many_times_at_once_is_taken_once(self, reports: FallbackReports) -> None:
        shares = {f"share-{number}": b"body" for number in range(20)}
        answers: list[tuple[bytes, bool]] = []

        async def call() -> None:
            answers.append(await reports.take(EDP, "key-1", DIGEST, shares, answer))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(call)
        assert [made for made, _ in answers] == [b""] * 8
        assert sorted(replayed for _, replayed in answers) == [False] + [True] * 7
        assert len(await reports.newest(100)) == 20

    async def test_calls_of_different_keys_that_meet_keep_each_share_once(self, reports: FallbackReports) -> None:
        names = [f"share-{number}" for number in range(20)]
        known: list[int] = []

        async def call(number: int) -> None:
            shares = dict.fromkeys(names[:: -1 if number % 2 else 1], b"body")
            made, _ = await reports.take(EDP, f"key-{number}", DIGEST, shares, answer)
            known.append(len([one for one in made.decode().split(",") if one]))

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(call, number)
        assert sorted(known) == [0, 20, 20, 20, 20, 20]
        assert len(await reports.newest(100)) == 20
