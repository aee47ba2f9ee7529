"""What Redis may say no with, as faults of ours: callers match classes, never reply texts.

`RedisUnavailable` and its subclasses mean "not now, perhaps later"; a command that was under way when the link
broke may or may not have been done. `RedisRefused` means that asking again would not help.
"""

from typing import ClassVar

from engine.errors import Fault, Kind


class RedisFault(Fault):
    """Base of all that goes wrong between us and Redis."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


class RedisUnavailable(RedisFault):
    """No link, a link lost under way, or a server that cannot serve now."""


class RedisLoading(RedisUnavailable):
    """The server is reading its files. The command was not done."""


class RedisReadOnly(RedisUnavailable):
    """The server is a replica, or was demoted: the primary is elsewhere. The command was not done."""


class RedisMoved(RedisUnavailable):
    """Another server of the cluster holds the slot (MOVED, or ASK while it migrates). The command was not done."""

    def __init__(self, text: str, *, host: str, port: int, detail: str = "") -> None:
        super().__init__(text, detail=detail)
        self.host = host
        self.port = port


class RedisNoScript(RedisFault):
    """EVALSHA of a script that this server has not seen: send its text. The command was not done."""

    kind = Kind.NOT_FOUND


class RedisRefused(RedisFault):
    """The server understood and refuses: wrong type, no permission, bad password, out of memory.

    code: the first word of the reply, such as `WRONGTYPE` or `NOPERM`.
    """

    kind = Kind.INVALID

    def __init__(self, text: str, *, code: str, detail: str = "") -> None:
        super().__init__(text, detail=detail)
        self.code = code


_PASSING = {"CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "NOGOODSLAVE", "NOQUORUM"}


def fault_of_reply(message: str) -> RedisFault:
    """The fault that an error reply means. message: the reply without its leading `-`.

    Its words may quote keys and values, so they stay in the detail and out of the text.
    """
    code, _, rest = message.partition(" ")
    if code in ("MOVED", "ASK"):
        return _moved(rest, message)
    if code == "LOADING":
        return RedisLoading("Redis is still loading", detail=message)
    if code in ("READONLY", "UNBLOCKED"):  # UNBLOCKED: demoted while a blocking read waited
        return RedisReadOnly("Redis is a read-only copy here", detail=message)
    if code == "NOSCRIPT":
        return RedisNoScript("Redis does not know the script", detail=message)
    if code in _PASSING:
        return RedisUnavailable(f"Redis cannot serve now: {code}", detail=message)
    return RedisRefused(f"Redis refused the command: {code}", code=code, detail=message)


def _moved(rest: str, message: str) -> RedisFault:
    _, _, address = rest.partition(" ")
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return RedisRefused("Redis sent an unreadable redirection", code="MOVED", detail=message)
    return RedisMoved("the keys live on another server", host=host, port=int(port), detail=message)
