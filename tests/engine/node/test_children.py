"""Places and their processes: renewed while one is still starting, told of new settings while one does not listen."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from engine.config import load_node_config
from engine.node.children import Child
from engine.node.orders import Order
from engine.node.renewal import Renewal
from tests.support.mutual_tls import Authority
from tests.support.nodes import ROOT, TRIVIAL, WITHIN, Running


@pytest.fixture
def settings(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(ROOT)  # where the processes find their module
    node = Running(tmp_path, authority, {}, launch=False)
    yield node.config
    node.log.close()


def place(settings: Path, *, beside: bool) -> Child:
    """Its processes do nothing until they are told to drain."""
    order = Order("feeder", load_node_config(settings))
    return Child(TRIVIAL[1], lambda: order, changed=lambda: None, ended=lambda *_: None, beside=beside)


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[trio.Event]:
    """In its place until the end; set = ready for the first time."""
    ready = trio.Event()

    async def run() -> None:
        async with trio.open_nursery() as inner:
            await inner.start(child.run)
            ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        while not child.pid:
            await trio.lowlevel.checkpoint()
        yield ready
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("beside", [False, True])
async def test_a_process_that_is_still_starting_is_renewed_once_it_serves(settings: Path, beside: bool) -> None:
    child = place(settings, beside=beside)
    with trio.fail_after(WITHIN):
        async with running(child) as ready:
            first = child.pid
            os.kill(first, signal.SIGSTOP)
            async with trio.open_nursery() as asking:
                asking.start_soon(child.renew)
                await trio.testing.wait_all_tasks_blocked()
                assert (child.pid, child.other_pids) == (first, [])
                os.kill(first, signal.SIGCONT)
                await ready.wait()
            assert child.pid not in (0, first)
            assert child.other_pids == []


async def test_a_process_that_does_not_listen_is_named_and_nothing_is_reloaded(settings: Path) -> None:
    child, absent = place(settings, beside=True), place(settings, beside=False)
    renewal = Renewal(load_node_config(settings), settings, lambda _: None)
    with trio.fail_after(WITHIN), capture_logs() as lines:
        async with running(child) as ready, trio.open_nursery() as renewing:
            await ready.wait()
            os.kill(child.pid, signal.SIGSTOP)
            while not child.tell(renewal.config):
                pass
            renewing.start_soon(renewal.run, [child], absent)
            renewal.reload()
            await trio.testing.wait_all_tasks_blocked()
            os.kill(child.pid, signal.SIGCONT)
            said = f"it does not listen and goes on with what it has: process {child.pid}"
            renewing.cancel_scope.cancel()
    assert [(line["event"], line["text"], line["taken"]) for line in lines] == [("reload_failed", said, ())]
