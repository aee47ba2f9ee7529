"""A round of reading files anew, part by part, and what the log says of it.

`reloaded` is said only where every part took what it read. Otherwise each part that did not has a `reload_failed`
of its own: kept = that part, which is as it was; taken = the parts that took what they read all the same.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from engine.errors import Fault

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


def reload_each(parts: Mapping[str, Callable[[], None]], log: "FilteringBoundLogger") -> None:
    """Let every part read anew, whatever becomes of the others. One that raises a Fault must have changed nothing."""
    refused: dict[str, Fault] = {}
    for name, reload in parts.items():
        try:
            reload()
        except Fault as fault:
            refused[name] = fault
    taken = [name for name in parts if name not in refused]
    for name, why in refused.items():
        log.error("reload_failed", text=why.text, detail=why.detail, kept=name, taken=taken)
    if not refused:
        log.info("reloaded")
