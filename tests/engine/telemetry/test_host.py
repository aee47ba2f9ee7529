"""The machine's clocks and its boot id."""

import time
from pathlib import Path

import pytest

from engine.clock import Clock
from engine.telemetry.host import NoBootId, SystemClock, boot_id


def test_clock_is_the_machine_s() -> None:
    clock: Clock = SystemClock()
    assert int(time.time()) - 1 <= clock.now() <= int(time.time()) + 1
    assert clock.boot() <= clock.boot()


def test_boot_id_is_the_kernel_s() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_missing_boot_id_is_a_fault(tmp_path: Path, content: str | None) -> None:
    source = tmp_path / "boot_id"
    if content is not None:
        source.write_text(content)
    with pytest.raises(NoBootId):
        boot_id(source)
