"""Renewal of a node's processes while it serves: all workers, one after another, and new settings where they differ.

One thing at a time; what is asked meanwhile is done afterwards, once. Whatever goes wrong, the old ones go on.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from engine.config import NodeConfig, load_node_config
from engine.errors import Fault
from engine.node.children import Child
from engine.node.reloading import Changes, Standing, changes, check, possible, standing
from engine.telemetry import logs

_log = logs.logger("node")


class Renewal:
    """config: what is in force, for children that start from now on.

    path: of the settings; None = they stay as they are. adopt: told of each new `config` before it is in force; it may
    raise a Fault.
    """

    def __init__(self, config: NodeConfig, path: Path | None, adopt: Callable[[NodeConfig], None]) -> None:
        self.config = config
        self._path = path
        self._adopt = adopt
        self._standing = standing(config)
        self._reload_due = self._restart_due = self._unfinished = False
        self._asked = trio.Event()

    def reload(self) -> None:
        """Take new settings and files as soon as possible."""
        self._reload_due = True
        self._asked.set()

    def restart(self) -> None:
        """Renew all workers as soon as possible."""
        self._restart_due = True
        self._asked.set()

    async def run(self, workers: Sequence[Child], feeder: Child) -> None:
        """Do what is asked, for ever."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            reload_due, restart_due = self._reload_due, self._restart_due
            self._reload_due = self._restart_due = False
            if reload_due:
                await self._take_settings(workers, feeder, all_workers=restart_due or self._unfinished)
            elif restart_due:
                await self._renew(workers)

    async def _take_settings(self, workers: Sequence[Child], feeder: Child, *, all_workers: bool) -> None:
        before = self._standing
        try:
            asked = self.config if self._path is None else load_node_config(self._path)
            config = possible(before.config, asked)
            check(config)
            self._put_in_force(standing(config))
        except Fault as fault:
            _log.error("reload_failed", text=fault.text, detail=fault.detail, taken=[])
            return
        found = changes(before, Standing(asked, self._standing.files))
        if found.full_restart:
            _log.warning("needs_full_restart", settings=found.full_restart)
        if (all_workers or found.workers) and not await self._renew_workers(workers, before):
            return
        if found.feeder:
            await self._renew([feeder])
        deaf = [pid for child in (*workers, feeder) for pid in child.tell(config)]
        _say(found, deaf)

    async def _renew_workers(self, workers: Sequence[Child], before: Standing) -> bool:
        done = await self._renew(workers)
        self._unfinished = 0 < done < len(workers)  # then the next reload renews them all, changed or not
        if not done:
            self._put_in_force(before)
        return done == len(workers)

    async def _renew(self, children: Sequence[Child]) -> int:
        """One after another, until one fails; returns how many were renewed."""
        _log.info("renewing", processes=len(children))
        for done, child in enumerate(children):
            old = child.pid
            try:
                await child.renew()
            except Fault as fault:
                _log.error("renewal_failed", old_pid=old, renewed=done, left=len(children) - done, text=fault.text)
                return done
            _log.info("renewed", old_pid=old, pid=child.pid)
        return len(children)

    def _put_in_force(self, found: Standing) -> None:
        self._adopt(found.config)
        self._standing, self.config = found, found.config


def _say(found: Changes, deaf: Sequence[int]) -> None:
    """deaf: pids of processes that could not be told."""
    renewed = (*found.renewing, *found.contents)
    if deaf:
        text = f"it does not listen and goes on with what it has: {', '.join(f'process {pid}' for pid in deaf)}"
        _log.error("reload_failed", text=text, taken=(*found.in_place, *renewed))
    else:
        _log.info("reloaded", in_place=found.in_place, renewed=renewed)
