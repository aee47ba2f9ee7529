"""The admin application's settings. Same rules as `engine.config`: frozen, decoded once, secrets are files."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from engine.clock import Seconds
from engine.config import Base, Count, Port, PositiveSeconds, Redis, Tls, decode


class Ledger(Base, frozen=True, kw_only=True):
    """Where the truth is kept. url: `sqlite:////path/ledger.db` or `postgresql+psycopg://…`."""

    url: str
    kind: Literal["sandbox", "production"] = "production"  # written into the first event, checked at each start
    must_exist: bool = False  # True: a sandbox, too, refuses a database without a ledger; production always does
    person_key_file: Path  # 32 raw bytes: wraps the per-person keys
    checkpoint_key_file: Path  # PEM, EC P-256: signs checkpoints
    password_file: Path | None = None
    pool_size: Count = 4
    backup_key_file: Path | None = None  # 32 raw bytes: seals backups; keep it apart from them
    backup_record: Path | None = None  # a directory apart from the backups: what was shipped, what was rehearsed
    erasure_journal: Path | None = None  # a file in another place; None: backups alone tell whom to erase again


class Issuer(Base, frozen=True, kw_only=True):
    """The token issuer. key_files: newest first; the first signs, the others verify until rotated out."""

    issuer: str
    key_files: tuple[Path, ...]  # PEM; RSA -> PS256, P-256 -> ES256, Ed25519 -> EdDSA
    token_lifetime: PositiveSeconds = Seconds(600.0)
    drop_keys_at_once: bool = False  # after a compromise: take key_files as they are; tokens of dropped keys end


class Web(Base, frozen=True, kw_only=True):
    """The three listeners: consumers, operators, machines (client certificate required)."""

    tls: Tls
    host: str = "127.0.0.1"
    public_port: Port = 8450
    machine_port: Port = 8451
    console_port: Port = 8452
    # The machine listener as callers know it, for discovery; "" = on the issuer's host, at the port it listens on
    machine_url: Annotated[str, Meta(pattern=r"^(https://[^/?#\s]+)?$")] = ""


class Feed(Base, frozen=True, kw_only=True):
    """Sealing of feed entries and of meter points. 32 raw bytes each; newest MAC key first."""

    mac_key_files: tuple[Path, ...]
    meter_key_file: Path
    stream_length: Count = 1_000_000  # entries kept in Redis for nodes that fell behind


class Disputes(Base, frozen=True, kw_only=True):
    """Until when an ATP may answer a dispute. The bank holidays of England and Wales are known by rule."""

    answer_working_days: Annotated[int, Meta(ge=1, le=100)] = 10
    further_bank_holidays: tuple[date, ...] = ()  # proclaimed for one year, and not known to this program


class Bootstrap(Base, frozen=True, kw_only=True):
    """A participant written into a new ledger, so that somebody can speak to it at all."""

    client_id: Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]
    role: Literal["operator", "node", "pusher"]
    certificate_file: Path


class AdminConfig(Base, frozen=True, kw_only=True):
    """The admin application, projector included."""

    ledger: Ledger
    issuer: Issuer
    web: Web
    feed: Feed
    redis: Redis | None = None  # None: nodes live on the feed over HTTPS alone
    introspection_endpoint: str  # the engine's, for metadata
    disputes: Disputes = Disputes()
    bootstrap: tuple[Bootstrap, ...] = ()
    log_level: str = "info"


def load_admin_config(path: Path) -> AdminConfig:
    """Read one TOML file. Raises engine.config.BadConfig with one sentence."""
    return decode(path, AdminConfig)
