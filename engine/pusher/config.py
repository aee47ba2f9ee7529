"""A pusher's settings: frozen structs, decoded once from TOML. `docs/settings.md` describes each."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from engine.clock import Seconds
from engine.config import Base, PositiveSeconds, Status, decode


class LedgerSide(Base, frozen=True, kw_only=True):
    """The feed service, which has the outbox, and how we prove ourselves to it."""

    url: str  # https://host:port/feed
    ca_file: Path
    certificate_file: Path
    key_file: Path


class Outgoing(Base, frozen=True, kw_only=True):
    """Calls of receivers: our certificate for them, and the authority that their servers' certificates chain to.

    bulk_rate: deliveries a second of single ends that an ATP's suspension has told already.
    """

    ca_file: Path
    certificate_file: Path
    key_file: Path
    allow_private_addresses: bool = False
    bulk_rate: Annotated[float, Meta(gt=0)] = 200.0


class PusherConfig(Base, frozen=True, kw_only=True):
    """One pusher. pusher_id: its client id. event_key_files: newest first."""

    pusher_id: Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]
    issuer: str
    feed: LedgerSide
    outgoing: Outgoing
    status: Status
    event_key_files: Annotated[tuple[Path, ...], Meta(min_length=1)]
    drain_timeout: PositiveSeconds = Seconds(10.0)
    log_level: str = "info"


def load_pusher_config(path: Path) -> PusherConfig:
    """Read one TOML file. Relative paths in it stand relative to the file. Raises BadConfig with one sentence."""
    return decode(path, PusherConfig)
