"""What becomes of changed settings and files: taken in place, by fresh processes, or only by a full restart.

A setting that nothing is known about is taken by fresh workers: that is always right where it is possible at all.
"""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.config import NodeConfig

_IN_PLACE: Final = frozenset(
    {
        "log-level",
        "drain-timeout",
        "listener.max-connections",
        "listener.idle-timeout",
        "listener.request-timeout",
        "listener.handshake-timeout",
        "listener.max-head",
        "listener.max-body",
    }
)
_FULL_RESTART: Final = frozenset(
    {"node-id", "runtime-directory", "workers", "replica.directory", "replica.map-size", "proxy-listener"}
)
_ADDRESSES: Final = frozenset({"host", "port"})
_FEEDERS: Final = frozenset({"feed", "redis", "signing", "tokens"})
# By every process that is told, whatever has changed.
_READ_ANEW: Final = frozenset(
    {
        "listener.tls.certificate-file",
        "listener.tls.key-file",
        "listener.tls.client-ca-file",
        "feed.ca-file",
        "feed.certificate-file",
        "feed.key-file",
    }
)


class Standing(msgspec.Struct, frozen=True):
    """Settings and the contents of the files they name. files: digests by the settings' names."""

    config: NodeConfig
    files: dict[str, bytes]


class Changes(msgspec.Struct, frozen=True):
    """Names of settings, sorted. contents: settings whose files have changed."""

    in_place: tuple[str, ...]
    renewing: tuple[str, ...]
    full_restart: tuple[str, ...]
    contents: tuple[str, ...]

    @property
    def workers(self) -> bool:
        """Whether they must be renewed."""
        return bool(self.renewing or self.contents)

    @property
    def feeder(self) -> bool:
        """Whether it must be renewed."""
        return any(name.partition(".")[0] in _FEEDERS for name in (*self.renewing, *self.contents))


def standing(config: NodeConfig) -> Standing:
    """Read the files as they are now; one that cannot be read counts as empty."""
    files = {name: path for name, path in _named(config) if name not in _READ_ANEW}
    return Standing(config, {name: _digest(path) for name, path in files.items()})


def changes(old: Standing, new: Standing) -> Changes:
    """What is different, by what must become of it."""
    differing = sorted(set(_differences(old.config, new.config)))
    full = tuple(name for name in differing if _needs_full_restart(name))
    in_place = tuple(name for name in differing if name in _IN_PLACE)
    contents = sorted(name for name in old.files.keys() & new.files.keys() if old.files[name] != new.files[name])
    return Changes(
        in_place=in_place,
        renewing=tuple(name for name in differing if name not in (*full, *in_place)),
        full_restart=full,
        contents=tuple(name for name in contents if not _needs_full_restart(name)),
    )


def possible(old: NodeConfig, new: NodeConfig) -> NodeConfig:
    """The new settings, but for those that only a full restart can change."""
    result = new
    for name in _differences(old, new):
        if _needs_full_restart(name):
            result = _with(result, old, name.split("."))
    return result


def check(config: NodeConfig) -> None:
    """Refuse what a child would refuse, before one is told of it. Raises a Fault of one sentence."""
    # Not before somebody reloads: a supervisor starts without them.
    from engine.feed.feed_tls import feed_tls  # noqa: PLC0415 - as above
    from engine.feed.redis_access import RedisAccess  # noqa: PLC0415 - as above
    from engine.listener.tls import server_context  # noqa: PLC0415 - as above
    from engine.node.key_files import read_key, read_keys  # noqa: PLC0415 - as above

    tls = config.listener.tls
    server_context(tls.certificate_file, tls.key_file, tls.client_ca_file)
    if config.proxy_listener is not None:
        from engine.listener.forwarded import thumbprints  # noqa: PLC0415 - as above

        tls = config.proxy_listener.tls
        server_context(tls.certificate_file, tls.key_file, tls.client_ca_file)
        thumbprints(config.proxy_listener.pinned_thumbprints)
    feed_tls(config.feed)
    read_keys(config.feed.mac_key_files)
    read_key(config.feed.meter_key_file)
    if config.redis is not None:
        RedisAccess(config.redis, jitter=random.random)


def _needs_full_restart(name: str) -> bool:
    return name in _FULL_RESTART or name.rpartition(".")[2] in _ADDRESSES


def _differences(old: object, new: object, within: str = "") -> Iterator[str]:
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        for field in msgspec.structs.fields(old):
            name = f"{within}.{field.encode_name}" if within else field.encode_name
            yield from _differences(getattr(old, field.name), getattr(new, field.name), name)
    elif old != new:
        yield within


def _named(value: object, within: str = "") -> Iterator[tuple[str, Path]]:
    """Every path in the settings that is not a directory, with its setting's name."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            name = f"{within}.{field.encode_name}" if within else field.encode_name
            yield from _named(getattr(value, field.name), name)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _named(item, f"{within}[{number}]")
    elif isinstance(value, Path) and not within.endswith("directory"):
        yield within, value


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""


def _with(target: Any, source: Any, names: list[str]) -> Any:  # noqa: ANN401 - any of the settings' structs
    first, *rest = names
    fields = {field.encode_name: field.name for field in msgspec.structs.fields(target)}
    attribute = fields[first]
    value = getattr(source, attribute)
    if rest:
        value = _with(getattr(target, attribute), value, rest)
    return msgspec.structs.replace(target, **{attribute: value})
