"""`ccs node`: one engine node, in the foreground."""

from pathlib import Path


def node(*, config: Path) -> None:
    """Run one engine node until SIGTERM or Ctrl-C; SIGTERM drains: requests in flight are finished first.

    Exit code 0 after a stop, 2 when the settings, a key, a certificate or a port cannot be used.

    Parameters
    ----------
    config
        The node's settings; `ccs check-config FILE` says whether they would be taken.
    """
    from engine.config import load_node_config
    from engine.node.supervisor import run_node

    run_node(load_node_config(config), config)
