"""The circuit: its schedule, number by number, and as a state machine whose every step is held against the rules."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.guard.circuit import Circuit, State

MIDDLE = 0.5  # a draw without jitter


def opened(at: float = 0.0) -> Circuit:
    circuit = Circuit()
    assert circuit.exhausted(at)
    return circuit


def failing(circuit: Circuit, count: int) -> list[float]:
    """When the next probes are made, all in vain."""
    times = []
    for _ in range(count):
        due = circuit.status(0.0).next_probe_at
        assert due is not None
        assert not circuit.probe_due(due - 0.001)
        assert circuit.probe_due(due)
        times.append(due)
        circuit.probed(due, MIDDLE, good=False)
    return times


def test_a_closed_circuit_admits_everything_and_probes_nothing() -> None:
    circuit = Circuit()
    assert circuit.admits(0.0, 0.999)
    assert not circuit.probe_due(1e9)
    assert circuit.status(0.0).next_probe_at is None


def test_the_whole_schedule_of_an_outage() -> None:
    """60 s without calls, ten probes a minute apart, then one every fifteen minutes."""
    circuit = opened()
    assert not circuit.admits(59.9, 0.0)
    assert failing(circuit, 12) == [60.0 + 60 * n for n in range(10)] + [1500.0, 2400.0]
    assert circuit.status(2400.0).state is State.SUSPENDED


def test_probes_are_up_to_ten_seconds_early_or_late() -> None:
    for draw, expected in ((0.0, 110.0), (0.5, 120.0), (0.999, 129.98)):
        circuit = opened()
        circuit.probed(60.0, draw, good=False)
        due = circuit.status(60.0).next_probe_at
        assert due is not None
        assert abs(due - expected) < 0.001


def test_three_good_probes_close_it_by_steps() -> None:
    circuit = opened()
    for at in (60.0, 120.0):
        circuit.probed(at, MIDDLE, good=True)
        assert not circuit.admits(at + 1, 0.0)
    circuit.probed(180.0, MIDDLE, good=True)
    admitted = [sum(circuit.admits(at, n / 1000) for n in range(1000)) for at in (180.0, 239.9, 240.0, 299.9, 300.0)]
    assert admitted == [100, 100, 500, 500, 1000]
    assert circuit.status(300.0).state is State.CLOSED


def test_a_failed_probe_starts_the_row_of_good_ones_anew() -> None:
    circuit = opened()
    for at, good in ((60.0, True), (120.0, True), (180.0, False), (240.0, True), (300.0, True)):
        circuit.probed(at, MIDDLE, good=good)
    assert circuit.status(300.0).state is State.PROBING
    circuit.probed(360.0, MIDDLE, good=True)
    assert circuit.status(360.0).state is State.RAMPING


def test_a_good_probe_ends_the_suspension() -> None:
    circuit = opened()
    failing(circuit, 11)
    circuit.probed(1500.0 + 900, MIDDLE, good=True)
    assert circuit.status(2400.0).next_probe_at == 2460.0


def test_an_exhausted_retry_while_it_is_ramping_opens_it_again() -> None:
    circuit = opened()
    for at in (60.0, 120.0, 180.0):
        circuit.probed(at, MIDDLE, good=True)
    assert circuit.exhausted(200.0)
    assert not circuit.admits(259.0, 0.0)
    assert circuit.probe_due(260.0)


def test_a_straggler_does_not_lengthen_the_buffer() -> None:
    circuit = opened()
    assert not circuit.exhausted(30.0)
    assert circuit.probe_due(60.0)


class CircuitMachine(RuleBasedStateMachine):
    """Any order of events at any pace: the rules of the strategy, each told in its own words."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit()
        self.now = 0.0
        self.opened_at: float | None = None
        self.probes: list[tuple[float, bool]] = []  # since it opened

    @rule(seconds=st.one_of(st.floats(0, 5), st.floats(50, 70), st.floats(0, 2000)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def exhaust(self) -> None:
        was = self.circuit.status(self.now).state
        if self.circuit.exhausted(self.now):
            assert was in (State.CLOSED, State.RAMPING)
            self.opened_at, self.probes = self.now, []

    @precondition(lambda self: self.circuit.probe_due(self.now))
    @rule(good=st.booleans(), draw=st.floats(0, 1, exclude_max=True))
    def probe(self, good: bool, draw: float) -> None:
        assert self.opened_at is not None
        assert self.now - self.opened_at >= 60.0
        if self.probes:
            in_vain = 0
            for _, was_good in reversed(self.probes):
                if was_good:
                    break
                in_vain += 1
            assert self.now - self.probes[-1][0] >= (890.0 if in_vain >= 10 else 50.0)
        self.probes.append((self.now, good))
        self.circuit.probed(self.now, draw, good=good)

    @rule(draw=st.floats(0, 1, exclude_max=True))
    def ask(self, draw: float) -> None:
        """What is admitted follows from the probes alone."""
        if self.opened_at is None:
            assert self.circuit.admits(self.now, draw)
            return
        has_closed = len(self.probes) >= 3 and all(good for _, good in self.probes[-3:])
        passed = self.now - self.probes[-1][0] if has_closed else -1.0
        allowed = 0.0 if passed < 0 else 0.1 if passed < 60 else 0.5 if passed < 120 else 1.0
        assert self.circuit.admits(self.now, draw) is (draw < allowed)

    @invariant()
    def a_probe_is_due_only_while_nothing_is_admitted(self) -> None:
        if self.circuit.probe_due(self.now):
            assert not self.circuit.admits(self.now, 0.0)


TestCircuitMachine = CircuitMachine.TestCase
