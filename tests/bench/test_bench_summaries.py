"""What the benches say of their rounds: the median of the sound ones, the worst of the overloads, or why nothing."""

from bench.bystanders import compared, side
from bench.handshakes import during
from bench.latency import Round
from bench.latency import summary as of_latency
from bench.openloop import Load, Tally, Usage
from bench.overload import share_of
from bench.overload import summary as of_overload

LOAD = Load(rate=100.0, count=10, connections=1)


def a_round(seconds: float, *, lag: float = 0.0, cpu: float = 0.001) -> Round:
    return Round(
        LOAD,
        Tally(good=[seconds] * 10, lags=[lag] * 10, statuses={"200": 10}, elapsed=1.0, server=Usage(cpu, 0.0)),
    )


def test_the_median_of_the_rounds_that_may_be_quoted_is_told() -> None:
    told = of_latency([a_round(0.009, lag=0.5), a_round(0.001), a_round(0.003), a_round(0.002)])
    assert (told["p99_ms"], told["rounds_quoted"], told["failures"]) == (2.0, 3, 0)


def test_no_latency_is_told_when_the_generator_lagged_in_every_round() -> None:
    told = of_latency([a_round(0.001, lag=0.5)])
    assert list(told) == ["refused"]


def test_the_worst_run_of_an_overload_is_told() -> None:
    runs = [
        {"capacity_per_second": 5, "offered_per_second": 10, "goodput_share": share, "good_ms": {"p99": p99}}
        for share, p99 in ((0.9, 3.0), (0.8, 2.0))
    ]
    assert of_overload(runs, []) == {
        "capacity_per_second": 5,
        "offered_per_second": 10,
        "goodput_share": 0.8,
        "good_p99_ms": 3.0,
    }
    disturbed = of_overload(runs, ["the generator lagged"])
    assert not {"good_p99_ms", "goodput_share"} & disturbed.keys()
    assert disturbed["refused"] == "the generator lagged"


def test_a_run_without_one_good_answer_has_no_latency_of_good_ones() -> None:
    run = {"capacity_per_second": 5, "offered_per_second": 10, "goodput_share": 0.0, "good_ms": {}}
    assert "good_p99_ms" not in of_overload([run], [])


def test_goodput_is_a_share_of_what_the_worker_can_do() -> None:
    assert share_of(a_round(0.001), 20.0) == 0.5


def test_bystanders_are_judged_by_medians_and_ratios() -> None:
    alone, among = side([a_round(0.001)]), side([a_round(0.002, cpu=0.003), a_round(0.002, cpu=0.001)])
    told = compared(alone, among)
    assert (told["p50_ratio"], told["p99_ratio"], told["cpu_ratio"]) == (2.0, 2.0, 2.0)
    assert "refused" not in told


def test_bystanders_tell_no_latency_of_rounds_that_lagged() -> None:
    told = compared(side([a_round(0.001, lag=0.5)]), side([a_round(0.002)]))
    assert "p99_ratio" not in told
    assert told["refused"]
    assert told["cpu_ratio"] == 1.0


def test_only_what_was_due_during_the_storm_counts_for_it() -> None:
    tally = Tally(good=[0.1, 0.2, 0.3], due=[1.0, 2.0, 3.0], began=100.0)
    assert during(tally, 101.5, 103.0) == [0.2]
