"""What the benches say of their rounds: the median of the sound ones, the worst of the medians, or why nothing."""

from bench.bystanders import compared, side
from bench.handshakes import during
from bench.latency import Round
from bench.latency import summary as of_latency
from bench.openloop import Load, Tally, Usage
from bench.overload import Run
from bench.overload import summary as of_overload
from bench.redis_lost import longest_gap
from bench.redis_lost import summary as of_redis_lost
from bench.redis_lost import told as of_a_loss
from bench.report import Target, used
from bench.scaling import summary as of_scaling
from bench.target import Door, usage_of, usage_of_all

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


def a_run(share: float, *, lag: float = 0.0, seconds: float = 0.001) -> Run:
    """Ten good answers in a second."""
    return Run(a_round(seconds, lag=lag), before=10 / share - 2, after=10 / share + 2)


def test_goodput_is_a_share_of_what_the_worker_can_do_around_it() -> None:
    assert a_run(0.5).share == 0.5


def test_of_overloads_the_worst_of_the_medians_is_told() -> None:
    runs = [[a_run(share) for share in shares] for shares in ((0.9, 0.95, 0.2), (0.8, 0.85, 0.99))]
    told = of_overload(runs, 3)
    assert told["goodput_share"] == 0.85
    assert told["goodput_share_by_connections"] == {"1": 0.85}
    assert (told["capacity_per_second"], told["offered_per_second"], told["good_p99_ms"]) == (11, 100, 1.0)


def test_no_goodput_is_told_where_too_many_runs_were_disturbed() -> None:
    told = of_overload([[a_run(0.9), a_run(0.9), a_run(0.9, lag=1.0)]], 3)
    assert not {"good_p99_ms", "goodput_share"} & told.keys()
    assert "lagged" in str(told["refused"])
    assert of_overload([[a_run(0.9), a_run(0.9), a_run(0.1, lag=1.0)]], 2)["goodput_share"] == 0.9


def test_overloads_without_one_good_answer_have_no_latency_of_good_ones() -> None:
    nothing = Round(LOAD, Tally(lags=[0.0], elapsed=1.0))
    told = of_overload([[Run(nothing, 10.0, 10.0)]], 1)
    assert told["goodput_share"] == 0.0
    assert "good_p99_ms" not in told


def test_two_workers_are_held_against_one_on_either_core() -> None:
    told = of_scaling([(40.0, 60.0, 55.0), (40.0, 40.0, 44.0), (50.0, 50.0, 60.0)])
    assert told["ratios"] == [1.1, 1.1, 1.2]
    assert told["ratio"] == 1.1
    assert (told["one_on_its_own_core_us"], told["one_beside_the_generator_us"], told["two_us"]) == (40.0, 50.0, 55.0)


def test_use_of_several_processes_is_told_together() -> None:
    alone = usage_of(0).cpu
    together = usage_of_all(Door(1, server=0, others=(0, 0))).cpu
    assert 3 * alone <= together <= 3 * usage_of(0).cpu


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


def test_a_loss_of_redis_counts_whatever_was_not_current() -> None:
    tally = Tally(
        good=[0.01, 0.02, 0.01],
        due=[0.0, 1.0, 1.5],
        statuses={"200": 6, "503": 1},
        late=1,
        wrong=2,
        timeouts=1,
        given_up=1,
        broken=1,
    )
    told = of_a_loss(tally, Load(rate=1.0, count=10, connections=1))
    assert (told["current"], told["not_current"], told["flagged"], told["failed"]) == (4, 6, 2, 4)
    assert longest_gap(tally) == 1010.0


def test_the_worst_loss_of_redis_is_told() -> None:
    losses: list[dict[str, object]] = [
        {"offered": 100, "not_current": bad, "failed": failed, "longest_gap_ms": gap}
        for bad, failed, gap in ((1, 0, 5.0), (0, 1, 9.0))
    ]
    assert of_redis_lost(losses) == {"not_current_share": 0.01, "failed": 1, "longest_gap_ms": 9.0}


def test_where_nothing_is_allowed_anything_is_too_much() -> None:
    nothing = Target("failures", "", 0, 0, lambda _: 0.0)
    assert (used(nothing, 0.0), used(nothing, 1.0)) == (0.0, 2.0)
