"""While a receiver is down, nothing new is begun but one probe a rest."""

from engine.pusher.circuit import OPENS_AFTER, Circuit


def opened() -> Circuit:
    circuit = Circuit()
    assert [circuit.failed(100.0) for _ in range(OPENS_AFTER)] == [False] * (OPENS_AFTER - 1) + [True]
    return circuit


def test_a_few_failures_leave_it_closed_and_an_answer_forgets_them() -> None:
    circuit = Circuit()
    for _ in range(OPENS_AFTER - 1):
        circuit.failed(0.0)
    assert circuit.may_begin(0.0)
    assert not circuit.answered()
    assert not circuit.failed(0.0)
    assert not circuit.is_open


def test_probes_come_after_15_30_and_then_every_60_seconds() -> None:
    circuit = opened()
    now, found = 100.0, []
    for _ in range(4):
        before = now
        while not circuit.may_begin(now):
            now += 1.0
        found.append(now - before)
        circuit.begun(now)
        circuit.failed(now)
    assert found == [15.0, 30.0, 60.0, 60.0]


def test_an_answer_closes_it() -> None:
    circuit = opened()
    assert circuit.probe_at == 115.0
    assert circuit.answered()
    assert circuit.may_begin(100.0)
    assert circuit.probe_at is None


def test_a_probe_that_a_clock_ahead_has_put_off_is_made_when_it_is_set_right() -> None:
    circuit = opened()
    assert circuit.may_begin(100.0 - 86_400)
    circuit.begun(100.0 - 86_400)
    assert not circuit.may_begin(100.0 - 86_400)
    assert circuit.probe_at == 130.0 - 86_400
