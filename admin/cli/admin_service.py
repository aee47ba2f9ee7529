"""`ccs admin`: the admin application of a real installation, in the foreground."""

import sys
from functools import partial
from pathlib import Path
from typing import Final

from engine.errors import Fault

# Seconds. One thread turns all calls, others work for the database. With Python's 5 ms a thread that was given the
# interpreter may keep the loop waiting that long, several times on the way of one revocation.
SWITCH_INTERVAL: Final = 0.0005


def admin(*, config: Path, runtime: Path | None = None) -> None:
    """Run the admin application until SIGTERM or Ctrl-C; requests in flight are finished first.

    Exit code 0 after a stop, 2 when the settings, a key or a port cannot be used, 3 when the database does not
    answer, 4 when it holds no ledger (only a sandbox begins one), 5 when the ledger is of another kind than the
    settings ask for. SIGHUP reads certificates anew.

    Parameters
    ----------
    config
        The settings; `ccs check-config FILE` says whether they would be taken.
    runtime
        File to write once everything is ready: {"pid", "ports": {"public", "machine", "console"}}.
    """
    import trio

    from admin.app import run_admin
    from admin.config import load_admin_config
    from engine.telemetry import logs

    sys.setswitchinterval(SWITCH_INTERVAL)
    settings = load_admin_config(config)
    logs.configure(settings.log_level, role="admin")
    try:
        trio.run(partial(run_admin, settings, runtime))
    except BaseExceptionGroup as group:
        raise first_fault(group) from group


def first_fault(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The fault that tells most of a group: one with a sentence for people, else the group itself."""
    found: BaseException | None = group.subgroup(Fault)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return group if found is None else found
