"""Looks for marked values wherever they may have been left: as they are, or as base64, hex or a URL hides them."""

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import redis


def disguises(marker: str) -> Iterator[bytes]:
    """Every form in which the marker is looked for."""
    raw = marker.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield quote(marker, safe="").encode()
    yield quote(marker).encode()
    yield quote_plus(marker).encode()
    yield json.dumps(marker)[1:-1].encode()
    yield marker.encode("unicode_escape")  # as Python's `repr` of bytes and old logs escape it
    for text in base64_at_any_offset(raw):
        yield text
        yield text.replace(b"+", b"-").replace(b"/", b"_")


def base64_at_any_offset(raw: bytes) -> Iterator[bytes]:
    """The characters that only depend on `raw`, wherever it stands inside of what was encoded."""
    for before in range(3):
        encoded = base64.b64encode(b"\x00" * before + raw)
        first = (before * 8 + 5) // 6  # the first character without a bit of what stands before
        whole = (before + len(raw)) * 8 // 6  # and those without a bit of what comes after
        yield encoded[first:whole]


def found(markers: Mapping[str, str], contents: bytes) -> list[str]:
    """The names of the markers that stand in the contents, in whatever form."""
    return [name for name, marker in markers.items() if any(form in contents for form in disguises(marker))]


def search(markers: Mapping[str, str], places: Iterable[tuple[str, bytes]]) -> list[str]:
    """`place: name of the marker` for each find."""
    return [f"{place}: {name}" for place, contents in places for name in found(markers, contents)]


def files_below(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Every regular file's path below the directory and what it holds; holes of sparse files are left out."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(directory).as_posix(), contents_of(path)


def contents_of(path: Path) -> bytes:
    """The file's bytes; a replica's file is mapped far larger than it is."""
    with path.open("rb", buffering=0) as file:
        size, at, parts = os.fstat(file.fileno()).st_size, 0, []
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole from here on
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            parts.append(os.pread(file.fileno(), at - start, start))
        return b"".join(parts)


def redis_values(url: str) -> Iterator[tuple[str, bytes]]:
    """Every key of a Redis: its name, its `DUMP`, and its value as its type is read (a dump may be compressed)."""
    with redis.Redis.from_url(url, socket_timeout=10) as client:
        for key in client.scan_iter(count=1000):
            value = read_value(client, key)
            yield f"redis {key!r}", key + b"\n" + (client.dump(key) or b"") + b"\n" + value


def read_value(client: "redis.Redis", key: bytes) -> bytes:
    kind = client.type(key)
    readers: dict[bytes, Any] = {
        b"string": client.get,
        b"stream": client.xrange,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"list": lambda k: client.lrange(k, 0, -1),
        b"zset": lambda k: client.zrange(k, 0, -1, withscores=True),
    }
    return b"\n".join(flat(readers[kind](key))) if kind in readers else b""


def flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(name)
            yield from flat(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from flat(inner)
