"""A node is quick to start: nothing is loaded before the first answer that the first answer does not need."""

import subprocess
import sys

import pytest

from tests.support.nodes import ROOT


def loaded_by(module: str, suspects: set[str]) -> set[str]:
    code = f"import sys, {module}\nprint(*({suspects!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["engine.node.worker", "engine.node.feeder", "engine.node.supervisor"])
def test_a_process_loads_no_slow_library_at_its_start(module: str) -> None:
    slow = {"redis", "httpx2", "prometheus_client", "structlog", "rich", "asyncio"}
    assert loaded_by(module, slow) == set()
