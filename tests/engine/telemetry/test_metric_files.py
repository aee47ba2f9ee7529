"""Metrics of several processes come together; what died no longer counts as open."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CHILD = """
from engine.telemetry import metrics
metrics.ACCEPTED.inc(3)
metrics.CONNECTIONS.set(2)
metrics.RESIDENT.labels("worker").set(5)
"""
PARENT = """
import subprocess, sys
from pathlib import Path
from engine.telemetry import metric_files
directory = Path(sys.argv[1])
metric_files.prepare(directory)
children = [subprocess.Popen([sys.executable, "-c", sys.argv[2]]) for _ in range(2)]
assert [child.wait() for child in children] == [0, 0]
metric_files.forget_process(directory, children[0].pid)
sys.stdout.buffer.write(metric_files.exposition(directory))
"""


def run(directory: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", PARENT, str(directory), CHILD], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout


def test_counters_add_up_and_gauges_of_the_dead_vanish(tmp_path: Path) -> None:
    text = run(tmp_path / "metrics")
    assert "ccs_connections_accepted_total 6.0" in text
    assert "ccs_connections 2.0" in text
    assert text.count("ccs_resident_bytes{") == 1


def test_files_of_an_earlier_run_are_emptied(tmp_path: Path) -> None:
    run(tmp_path / "metrics")
    assert "ccs_connections_accepted_total 6.0" in run(tmp_path / "metrics")
    assert os.environ.get("PROMETHEUS_MULTIPROC_DIR") is None
