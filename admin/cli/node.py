"""`ccs node`: one engine node, in the foreground."""

from pathlib import Path


def node(*, config: Path) -> None:
    """Run one engine node until SIGTERM or Ctrl-C; SIGTERM drains.

    Parameters
    ----------
    config
        The node's settings; `ccs check-config FILE` says whether they would be taken.
    """
    from engine.node.supervisor import run_node

    from engine.config import load_node_config

    run_node(load_node_config(config), config)
