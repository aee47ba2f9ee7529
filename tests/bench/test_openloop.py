"""The generator's arithmetic, and its accounting against servers that stall, refuse, hang up or say something else."""

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from bench.openloop import GOOD_ANSWER, Load, Tally, closed_loop, milliseconds, offer, percentile, schedule
from bench.target import Door, Usage, ending_of, usage_of
from tests.support.mutual_tls import Authority
from tests.support.scripted_server import WITHIN, Script, Scripted

STALL = 0.5  # seconds


def answer(body: bytes = b"{" + GOOD_ANSWER + b"}", status: int = 200, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b" % (status, extra, len(body), body)


Serve = Callable[..., Scripted]


@pytest.fixture
def scripted() -> Iterator[Serve]:
    servers: list[Scripted] = []

    def serve(script: Script, authority: Authority | None = None) -> Scripted:
        servers.append(Scripted(script, authority))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def ask(server: Scripted, load: Load) -> Tally:
    return offer(Door(server.port), [ending_of(b"one"), ending_of(b"two")], load)


def test_evenly_spaced_requests_are_due_at_multiples_of_the_interval() -> None:
    due = schedule(Load(rate=4.0, count=5, connections=1, uniform=True))
    assert list(due) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_poisson_arrivals_have_the_rate_asked_for_and_the_spread_of_such_a_process() -> None:
    due = schedule(Load(rate=1000.0, count=20_000, connections=1))
    gaps = [after - before for before, after in pairwise(due)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(0.001, rel=0.05)
    assert spread == pytest.approx(mean, rel=0.05)
    assert all(gap >= 0 for gap in gaps)


def test_the_same_seed_gives_the_same_arrivals_and_another_others() -> None:
    load = Load(rate=10.0, count=10, connections=1, seed=7)
    assert schedule(load) == schedule(load)
    assert schedule(load) != schedule(Load(rate=10.0, count=10, connections=1, seed=8))


def test_in_a_closed_loop_everything_is_due_at_once() -> None:
    assert list(schedule(closed_loop(3, 1))) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (1, 0.999, 1),
        (2, 0.5, 1),
        (100, 0.5, 50),
        (100, 0.99, 99),
        (100, 0.999, 100),
        (1000, 0.999, 999),
        (1000, 1.0, 1000),
    ],
)
def test_percentiles_go_by_nearest_rank(count: int, share: float, expected: int) -> None:
    assert expected == percentile(range(1, count + 1), share)


def test_percentiles_are_shown_in_milliseconds_of_unordered_seconds() -> None:
    values = [number / 1000 for number in range(1, 1001)]
    values = values[::2] + values[1::2]
    assert milliseconds(values) == {"p50": 500.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0}
    assert milliseconds([]) == {}


def test_each_request_is_asked_once_with_an_id_of_its_own_and_the_bodies_in_turn(scripted: Serve) -> None:
    server = scripted(lambda _number, _request: answer())
    tally = ask(server, Load(rate=1000.0, count=100, connections=4))
    ids = [request.split(b"X-Request-ID: ")[1].split(b"\r\n")[0] for request in server.requests]
    assert (len(tally.good), tally.statuses, tally.failures()) == (100, {"200": 100}, 0)
    assert len(set(ids)) == 100
    assert sum(request.endswith(b"token=two") for request in server.requests) == 50


def test_all_who_were_due_during_a_stall_are_charged_for_it(scripted: Serve) -> None:
    """Of 1,000 a second over two connections, a stall of 0.5 s from the 100th request on meets 500.

    Those due in its first 0.4 s waited at least 0.1 s each. A generator that counted from sending would have seen the
    two that were in flight.
    """

    def script(number: int, _request: bytes) -> bytes:
        if number == 100:
            time.sleep(STALL)
        return answer()

    tally = ask(scripted(script), Load(rate=1000.0, count=1000, connections=2, uniform=True))
    charged = [taken for taken in tally.good if taken >= STALL - 0.4]
    assert len(charged) >= 380
    assert max(tally.good) >= STALL - 0.002
    assert milliseconds(tally.good)["p99"] >= STALL * 0.8 * 1e3
    assert len(tally.good) == 1000


def test_a_stall_is_no_lag_of_the_generator(scripted: Serve) -> None:
    def script(number: int, _request: bytes) -> bytes:
        if number == 10:
            time.sleep(STALL)
        return answer()

    tally = ask(scripted(script), Load(rate=200.0, count=200, connections=1, uniform=True))
    assert sum(lag >= STALL - 0.4 for lag in tally.lags) < sum(taken >= STALL - 0.4 for taken in tally.good)
    assert len(tally.lags) == 200


def test_latencies_keep_when_they_were_due(scripted: Serve) -> None:
    tally = ask(scripted(lambda _n, _r: answer()), Load(rate=500.0, count=50, connections=1, uniform=True))
    assert sorted(tally.due) == list(schedule(Load(rate=500.0, count=50, connections=1, uniform=True)))


def test_who_waits_longer_than_the_time_out_counts_as_timed_out_or_given_up(scripted: Serve) -> None:
    """One connection, stalled for ever at the first request: that one is sent, the others are not in time."""
    over = threading.Event()

    def script(number: int, _request: bytes) -> bytes | None:
        if number == 1:
            over.wait(WITHIN)
            return None
        return answer()

    server = scripted(script)
    load = Load(rate=100.0, count=10, connections=1, uniform=True, timeout=0.4)
    try:
        tally = ask(server, load)
    finally:
        over.set()
    assert tally.timeouts >= 1
    assert 10 == tally.failures() == tally.timeouts + tally.given_up
    assert tally.figures(load)["latency_ms"] == {"p50": 400.0, "p99": 400.0, "p99.9": 400.0, "max": 400.0}


def test_who_finds_no_free_connection_in_its_patience_is_given_up_unsent(scripted: Serve) -> None:
    def script(_number: int, _request: bytes) -> bytes:
        time.sleep(0.2)
        return answer()

    server = scripted(script)
    tally = ask(server, Load(rate=1000.0, count=50, connections=1, uniform=True, patience=0.1))
    assert len(tally.good) + tally.given_up == 50
    assert len(server.requests) == len(tally.good) < 10


def test_good_answers_that_come_too_late_are_no_good(scripted: Serve) -> None:
    def script(number: int, _request: bytes) -> bytes:
        time.sleep(0.3 if number == 1 else 0)
        return answer()

    tally = ask(scripted(script), Load(rate=10.0, count=2, connections=1, uniform=True, good_within=0.25))
    assert tally.late >= 1
    assert tally.late + len(tally.good) == 2


def test_refusals_and_wrong_answers_are_told_apart_from_good_ones(scripted: Serve) -> None:
    said = [answer(), answer(b"no", 503), answer(b"no", 429), answer(b'{"active":false}')]
    tally = ask(scripted(lambda number, _r: said[(number - 1) % 4]), Load(rate=500.0, count=40, connections=1))
    assert (tally.statuses, len(tally.good), tally.wrong) == ({"200": 20, "503": 10, "429": 10}, 10, 10)
    assert tally.failures() == 30


def test_answers_may_come_in_pieces(scripted: Serve) -> None:
    whole = answer(extra=b"X-Filler: " + b"x" * 70_000 + b"\r\n")
    tally = ask(scripted(lambda _n, _r: whole), Load(rate=100.0, count=5, connections=1))
    assert len(tally.good) == 5


def test_a_server_that_hangs_up_costs_that_request_and_the_next_has_a_new_connection(scripted: Serve) -> None:
    tally = ask(
        scripted(lambda number, _r: None if number == 3 else answer()), Load(rate=200.0, count=20, connections=1)
    )
    assert (tally.broken, tally.reconnected, len(tally.good)) == (1, 1, 19)


def test_a_connection_that_the_server_closes_after_its_answer_is_replaced(scripted: Serve) -> None:
    last = answer(b"later", 503, b"Connection: close\r\n")
    tally = ask(
        scripted(lambda number, _r: last if number == 3 else answer()), Load(rate=200.0, count=20, connections=1)
    )
    assert (tally.broken, tally.reconnected, len(tally.good)) == (0, 1, 19)


def test_when_nobody_listens_any_more_the_rest_is_given_up(scripted: Serve) -> None:
    servers: list[Scripted] = []

    def script(number: int, _request: bytes) -> bytes | None:
        if number == 5:
            servers[0].stop_listening()
            return None
        return answer()

    servers.append(scripted(script))
    tally = ask(servers[0], Load(rate=100.0, count=20, connections=1, uniform=True, timeout=0.3))
    assert len(tally.good) + tally.failures() == 20
    assert len(tally.good) == 4


def test_it_speaks_mutual_tls(scripted: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("edp")
    server = scripted(lambda _n, _r: answer(), authority)
    door = Door(server.port, str(authority.file), str(certificate), str(key))
    tally = offer(door, [ending_of(b"one")], Load(rate=200.0, count=40, connections=3))
    assert (len(tally.good), tally.failures()) == (40, 0)


def test_a_generator_that_lagged_refuses_to_be_quoted() -> None:
    tally = Tally(lags=[0.0001] * 98 + [0.003] * 2)
    assert "p99 of 3.00 ms, more than 1.00 ms" in tally.refusal(0.001)


def test_a_generator_that_kept_pace_may_be_quoted() -> None:
    assert not Tally(lags=[0.0001] * 99 + [0.003]).refusal(0.001)


def test_a_run_whose_server_had_to_share_its_core_may_not_be_quoted() -> None:
    disturbed = Tally(lags=[0.0], elapsed=10.0, server=Usage(cpu=5.0, waited=0.6))
    assert disturbed.refusal(0.001) == "others had the server's core: it waited 0.60 s of 10.00 s"
    assert not Tally(lags=[0.0], elapsed=10.0, server=Usage(cpu=5.0, waited=0.4)).refusal(0.001)


def test_a_generator_that_offered_nothing_may_not_be_quoted() -> None:
    assert Tally().refusal(0.001)


def test_failures_count_as_the_whole_time_out_in_what_was_offered_but_not_among_the_good() -> None:
    load = Load(rate=10.0, count=4, connections=1, timeout=2.0)
    figures = Tally(good=[0.001, 0.001], statuses={"200": 2, "503": 1}, timeouts=1, elapsed=2.0).figures(load)
    assert figures["failures"] == 2
    assert figures["latency_ms"]["p99"] == 2000.0
    assert figures["good_ms"]["max"] == 1.0
    assert (figures["good_per_second"], round(3 / 2)) == (1, 2)


def test_the_use_of_a_process_only_grows() -> None:
    before = usage_of(0)
    sum(range(200_000))
    used = usage_of(0).since(before)
    assert used.cpu > 0
    assert used.waited >= 0
    assert Usage(0.0, 0.0) == before.since(before)


def test_a_generator_that_sleeps_between_requests_loses_none(scripted: Serve) -> None:
    server = scripted(lambda _n, _r: answer())
    tally = ask(server, Load(rate=200.0, count=100, connections=2, uniform=True, spin=False))
    assert (len(tally.good), tally.failures(), len(tally.lags)) == (100, 0, 100)
    assert all(lag >= 0 for lag in tally.lags)


def test_a_process_that_has_ended_cannot_be_measured() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(ProcessLookupError, match=f"process {ended.pid}, which was to be measured, has ended"):
        usage_of(ended.pid)
