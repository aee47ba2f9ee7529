"""`ccs pusher`: one pusher, in the foreground."""

from pathlib import Path


def pusher(*, config: Path) -> None:
    """Bring signed events to ATPs and EDPs until SIGTERM or Ctrl-C; what is under way is finished first.

    Several may run: one works, the others wait for its lease. Exit code 0 after a stop, 2 when the settings, a key, a
    certificate or a port cannot be used.

    Parameters
    ----------
    config
        The pusher's settings; `ccs check-config FILE` says whether they would be taken.
    """
    from engine.pusher.config import load_pusher_config
    from engine.pusher.main import run_pusher

    run_pusher(load_pusher_config(config), config)
