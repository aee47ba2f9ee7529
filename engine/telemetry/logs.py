"""Structured logs: one JSON object a line on stderr, written in one place.

An event is a name in snake case with fields, never a sentence put together from data. Tokens do not belong in
fields; should one slip in (an exception's text quotes it), it is struck out on the way. structlog brings rich and
asyncio, a fifth of a process's start: it is loaded when the first line is written, or by `load`.
"""

import re
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import orjson

from engine.config import BadConfig

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)?")
_NAMES: Final = re.compile(r"(?:^|_)(?:token|secret|password|authorization|assertion|cookie|dpop)$")
_REMOVED: Final = "[removed]"


_loading: Final = threading.Lock()
_waiting: list[Callable[[], None]] = []  # the configuration that structlog has not been told yet, if any


def configure(level: str, *, stream: BinaryIO | None = None, late: bool = False, **always: str) -> None:
    """Set up this process's log; `always` goes into every line (role, node_id). Raises BadConfig.

    late: leave structlog for the first line; only where every line is written through `logger`.
    """
    number = _LEVELS.get(level)
    if number is None:
        raise BadConfig(f"log-level: {level!r} is none of {', '.join(_LEVELS)}")
    _waiting[:] = [partial(_apply, number, stream or sys.stderr.buffer, always)]
    if not late:
        load()


def load() -> None:
    """Have structlog ready for the next line. From any thread."""
    with _loading:
        while _waiting:
            _waiting.pop()()  # taken before it is told: another one that comes meanwhile is told next


def _apply(level: int, stream: BinaryIO, always: dict[str, str]) -> None:
    import structlog  # noqa: PLC0415 - see the module's own words

    structlog.configure(
        processors=[
            _with(always),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            strike_out_secrets,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def logger(room: str) -> "FilteringBoundLogger":
    """The log of one room; may be taken at import, before `configure`."""
    return cast("FilteringBoundLogger", _Room(room))


class _Room:
    """Stands for structlog's logger until there is a line to write."""

    def __init__(self, room: str) -> None:
        self._room = room

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - a method of structlog's logger
        load()
        import structlog  # noqa: PLC0415 - see the module's own words

        return getattr(structlog.get_logger(room=self._room), method)


def strike_out_secrets(_logger: "WrappedLogger", _method: str, fields: "EventDict") -> "EventDict":
    """Replace values that are tokens, or stand under a name that says so."""
    for name, value in fields.items():
        if _NAMES.search(name):
            fields[name] = _REMOVED
        elif isinstance(value, str) and "eyJ" in value:
            fields[name] = _JWT.sub(_REMOVED, value)
    return fields


def _with(always: dict[str, str]) -> Any:  # noqa: ANN401 - structlog's processors are typed by a union of callables
    def add(_logger: "WrappedLogger", _method: str, fields: "EventDict") -> "EventDict":
        return {**always, **fields}

    return add


def _to_json(fields: "EventDict", **_options: object) -> bytes:
    return orjson.dumps(fields, default=repr)
