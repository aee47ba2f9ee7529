"""A guard's settings: frozen structs, decoded once from TOML. `docs/settings.md` describes each."""

import enum
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from engine.clock import Seconds
from engine.config import Base, Count, Port, PositiveSeconds, decode

Origin = Annotated[str, Meta(pattern=r"^https://[^/?#\s@]+$")]
DAY: Final = Seconds(86_400.0)


class AnswerForm(enum.StrEnum):
    """The form of answers that this EDP is registered for."""

    PLAIN = "plain"
    SIGNED = "signed"


class OnOutage(enum.StrEnum):
    """What is done while nobody can be asked."""

    CONTINUE = "continue"  # shares on what is known, within the rules
    HALT = "halt"  # shares nothing


class Service(Base, frozen=True, kw_only=True):
    """Whom the guard asks. addresses: origins of engine nodes; certificate: this EDP's own."""

    addresses: Annotated[tuple[Origin, ...], Meta(min_length=1, max_length=32)]
    ca_file: Path
    certificate_file: Path
    key_file: Path
    machine_url: str = ""  # origin of the admin application's mTLS listener: streams, polls, listings, reports
    jwks_url: str = ""  # of the keys that sign answers; "" = the issuer's `/jwks`
    event_jwks_url: str = ""  # of the keys that sign events; "" = the issuer's `/event-jwks`
    decision_point: str = ""  # `iss` of signed decisions; "" = the addresses themselves
    max_connections: Count = 16  # to each address
    hedge: bool = True  # a slow node's question is asked of a second one too
    # True: a token that is new here is introspected with its first share, not asked about by digest, so that it may
    # serve in an outage. False: such tokens go into batches too, and never serve in an outage.
    introspect_first: bool = True


class Policy(Base, frozen=True, kw_only=True):
    """What may be done in an outage (CMS-18, CMS-19). outage_cap: seconds from the first exhausted retry; 0 = none."""

    on_outage: OnOutage = OnOutage.CONTINUE
    outage_cap: Annotated[Seconds, Meta(ge=0, le=604_800)] = DAY
    beyond_token_exp: bool = True  # in an outage a token may be older than its `exp`


class Store(Base, frozen=True, kw_only=True):
    """The guard's memory. key_file: 32 raw bytes, private, kept apart from the directory."""

    directory: Path
    key_file: Path
    previous_key_file: Path | None = None  # set for one start after the key was replaced
    anchor_file: Path | None = None  # shows whether the store went back in time; None = beside the key
    max_bytes: Count = 1 << 30
    max_tokens: Count = 1_000_000


class Evidence(Base, frozen=True, kw_only=True):
    """What is kept of shares made in outages, beside the memory and under the same key."""

    max_bytes: Count = 2 << 30  # a share takes 1 to 8 KB; full of what was not reported yet = no shares in an outage
    keep_days: Count = 396  # after it was reported: as long as the service keeps what it was asked


class Receiver(Base, frozen=True, kw_only=True):
    """Where pushed events arrive (RFC 8935), over TLS. client_ca_file: of the pusher's certificate."""

    certificate_file: Path
    key_file: Path
    client_ca_file: Path
    pusher_thumbprints: tuple[str, ...] = ()  # SHA-256 as openssl prints it; none = any of that authority
    host: str = "127.0.0.1"
    port: Port = 8460
    public_url: str = ""  # as the service calls it; "" = made of host and port
    max_connections: Count = 64


class Events(Base, frozen=True, kw_only=True):
    """Events about consents. receiver: None = by poll alone. Seconds."""

    receiver: Receiver | None = None
    poll_interval: PositiveSeconds = Seconds(900.0)
    reorder_wait: PositiveSeconds = Seconds(5.0)  # before a hole in what was pushed is filled by poll
    silence_limit: PositiveSeconds = Seconds(180.0)  # without a heartbeat, then the service is asked


class Sidecar(Base, frozen=True, kw_only=True):
    """Where the EDP's own programs ask: a unix socket, or loopback with a secret."""

    socket: Path | None = None
    host: str = "127.0.0.1"
    port: Port | None = None  # None = the unix socket alone
    secret_file: Path | None = None  # needed with `port`
    status_port: Port = 8461  # health and metrics, loopback
    max_connections: Count = 1_000


class GuardConfig(Base, frozen=True, kw_only=True):
    """One guard."""

    client_id: Annotated[str, Meta(min_length=1, max_length=255)]  # this EDP's; audience of answers and events
    issuer: str
    answers: AnswerForm = AnswerForm.PLAIN
    service: Service
    policy: Policy = Policy()
    store: Store
    evidence: Evidence = Evidence()
    events: Events = Events()
    sidecar: Sidecar | None = None
    log_level: str = "info"

    @property
    def jwks_url(self) -> str:
        """Where the keys that sign answers are published."""
        return self.service.jwks_url or f"{self.issuer}/jwks"

    @property
    def event_jwks_url(self) -> str:
        """Where the keys that sign events are published."""
        return self.service.event_jwks_url or f"{self.issuer}/event-jwks"


def load_guard_config(path: Path) -> GuardConfig:
    """Read one TOML file. Relative paths in it stand relative to the file. Raises BadConfig with one sentence."""
    return decode(path, GuardConfig)
