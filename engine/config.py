"""An engine node's settings: frozen structs, decoded once from TOML.

Secrets are file paths, never values. Every field that is not needed to start has a default. `docs/settings.md`
describes each; a test holds it to that.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from engine.clock import Seconds
from engine.errors import Fault, Kind

T = TypeVar("T")
Port = Annotated[int, Meta(ge=0, le=65535)]  # 0 = any free one
Count = Annotated[int, Meta(ge=1)]
PositiveSeconds = Annotated[Seconds, Meta(gt=0)]


MAX_KEY_BYTES = 65_536  # the largest key file that makes sense


class BadConfig(Fault):
    """The file cannot be read or breaks a rule; the text names the place."""

    kind = Kind.INVALID


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """What all settings structs share; kw_only is repeated because msgspec does not inherit it."""


class Tls(Base, frozen=True, kw_only=True):
    """Server certificate and the authorities whose client certificates are taken. PEM files."""

    certificate_file: Path
    key_file: Path
    client_ca_file: Path


class Listener(Base, frozen=True, kw_only=True):
    """Where EDPs call. Sizes in bytes, waits in seconds."""

    tls: Tls
    host: str = "127.0.0.1"
    port: Port = 8440
    max_connections: Count = 10_000
    idle_timeout: PositiveSeconds = Seconds(75.0)
    request_timeout: PositiveSeconds = Seconds(10.0)
    handshake_timeout: PositiveSeconds = Seconds(10.0)
    max_head: Count = 16_384
    max_body: Count = 262_144  # of a batch; an introspection may have 16 KiB
    public_url: Annotated[str, Meta(pattern=r"^(https://[^/?#\s]+)?$")] = ""  # the origin that callers know


class Evaluations(Base, frozen=True, kw_only=True):
    """Access evaluations (AuthZEN)."""

    permit_on_first_permit: bool = False
    explain: bool = True  # false: a no says `not_covered` in place of what is not


class ProxyListener(Base, frozen=True, kw_only=True):
    """Where a TLS-ending proxy passes on EDPs' requests, with their certificates in a header (RFC 9440).

    tls.client_ca_file: of the proxies' own certificates; participants' authorities are `listener.tls.client_ca_file`.
    """

    tls: Tls
    pinned_thumbprints: tuple[str, ...]  # SHA-256 of the proxies' certificates, as openssl prints it
    host: str = "127.0.0.1"
    port: Port = 8442


class Status(Base, frozen=True, kw_only=True):
    """Health, status and metrics: plain HTTP, loopback only."""

    host: str = "127.0.0.1"
    port: Port = 8441


class Redis(Base, frozen=True, kw_only=True):
    """How to reach Redis: `unix:///path`, `redis://host:port`, `rediss://host:port`, or Sentinel's name."""

    url: str
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    sentinels: tuple[str, ...] = ()  # host:port of each; then `url` is `sentinel://master-name`


class Feed(Base, frozen=True, kw_only=True):
    """The feed service over HTTPS and the keys that check what Redis brings."""

    url: str  # https://host:port/feed
    ca_file: Path
    certificate_file: Path
    key_file: Path
    mac_key_files: tuple[Path, ...]  # newest first; 32 raw bytes each
    meter_key_file: Path  # 32 raw bytes


class Replica(Base, frozen=True, kw_only=True):
    """The node's own copy. directory: on local disk, never shared."""

    directory: Path
    map_size: Count = 8 << 30  # address space, not memory


class Tokens(Base, frozen=True, kw_only=True):
    """Whose tokens are taken."""

    issuer: str
    # Verified tokens remembered by each worker: 1.5 KB each, so 50 MB when full, and a worker stays below 120 MB
    memo_size: Count = 32_768
    one_issuer: bool = False  # exactly one admin application issues them: what it vouches for is the whole


class Signing(Base, frozen=True, kw_only=True):
    """Signed answers. directory: of this node's answer keys; private to it, on local disk, made at the first start."""

    directory: Path
    decision_codes: bool = False  # in signed answers, which part of what was asked for is not consented


class NodeConfig(Base, frozen=True, kw_only=True):
    """One engine node."""

    node_id: Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]
    listener: Listener
    proxy_listener: ProxyListener | None = None  # None: certificates in headers are ignored everywhere
    status: Status
    redis: Redis | None = None  # None: the node lives on the HTTPS feed alone
    feed: Feed
    replica: Replica
    tokens: Tokens
    evaluations: Evaluations = Evaluations()
    signing: Signing | None = None  # None: EDPs that must have signed answers get 503
    runtime_directory: Path  # sockets and metric files; emptied at start
    workers: Annotated[int, Meta(ge=0)] = 0  # 0 = one a core
    drain_timeout: PositiveSeconds = Seconds(10.0)
    log_level: str = "info"


def read_private(path: Path) -> bytes:
    """The bytes of a key file. Raises BadConfig, also when anybody but its owner may read or write it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold up the start
        try:
            # Of the file that was opened, whatever stands under the name by now.
            _refuse_open_to_others(os.fstat(descriptor).st_mode, path)
            return os.read(descriptor, MAX_KEY_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error


def _refuse_open_to_others(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise BadConfig(f"{path}: not a file")
    if stat.S_IMODE(mode) & 0o077:
        raise BadConfig(f"{path}: others than its owner may read this key; run: chmod 600 {path}")


def load_node_config(path: Path) -> NodeConfig:
    """Read one TOML file. Relative paths in it stand relative to the file. Raises BadConfig with one sentence."""
    return decode(path, NodeConfig)


def decode(path: Path, kind: type[T]) -> T:
    """Read a TOML file into a settings struct; shared with the admin application."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error
    try:
        return msgspec.toml.decode(raw, type=kind, dec_hook=_paths_below(path.parent))
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path}: not UTF-8 text") from error
    except msgspec.MsgspecError as error:
        raise BadConfig(f"{path}: {error}") from error


def _paths_below(directory: Path) -> Callable[[type, Any], Any]:
    def hook(kind: type, value: Any) -> Any:  # noqa: ANN401 - msgspec's own signature
        if kind is Path and isinstance(value, str):
            return directory / value
        raise NotImplementedError(f"no decoder for {kind}")

    return hook
