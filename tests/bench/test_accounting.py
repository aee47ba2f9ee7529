"""CPU time is that of a whole family of processes, and what is started on a core stays there."""

import os
import subprocess
import sys

from bench.accounting import core, cpu_seconds, family, starting_on

CHILD = "import sys, time; sys.stdin.read()"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=sys.stdin)
print(child.pid, flush=True)
child.wait()
"""


def test_a_family_is_a_process_and_its_descendants() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert [parent.pid, child] == family(parent.pid)
        assert cpu_seconds(parent.pid) > cpu_seconds(child) > 0
        parent.stdin.close()


def test_work_shows_in_the_account() -> None:
    before = cpu_seconds(os.getpid())
    sum(range(1_000_000))
    assert cpu_seconds(os.getpid()) > before


def test_a_process_that_is_gone_counts_nothing() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert cpu_seconds(done.pid) == 0


def test_what_is_started_on_a_core_stays_there_and_we_do_not() -> None:
    ours = os.sched_getaffinity(0)
    with starting_on(core(1)):
        ask = "import os; print(sorted(os.sched_getaffinity(0)))"
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert str(sorted(core(1))) == done.stdout.strip()
    assert ours == os.sched_getaffinity(0)
