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
metrics.HANDLING.observe(0.003)
"""
PARENT = """
import subprocess, sys
from pathlib import Path
from engine.telemetry import metric_files
directory = Path(sys.argv[1])
metric_files.prepare(directory)
children = [subprocess.Popen([sys.executable, "-c", sys.argv[2]]) for _ in range(2)]
assert [child.wait() for child in children] == [0, 0]
for child in children[: int(sys.argv[3])]:
    metric_files.forget_process(directory, child.pid)
sys.stdout.buffer.write(metric_files.exposition(directory))
"""


def run(directory: Path, dead: int = 1) -> str:
    return subprocess.run(
        [sys.executable, "-c", PARENT, str(directory), CHILD, str(dead)],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
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


def test_the_dead_leave_their_counts_and_no_files_of_their_own(tmp_path: Path) -> None:
    text = run(tmp_path / "metrics", dead=2)
    assert "ccs_connections_accepted_total 6.0" in text
    assert 'ccs_http_handling_seconds_bucket{le="0.005"} 2.0' in text
    assert "ccs_http_handling_seconds_sum 0.006" in text
    assert {file.name for file in (tmp_path / "metrics").iterdir()} == {"counter_0.db", "histogram_0.db"}
