"""Settings files of the system under test: as an operator would write them for several nodes on one machine."""

from pathlib import Path

import msgspec

HOST = "127.0.0.1"
OPERATOR = "operator-1"
ATPS = ("atp-1", "atp-2")
DATASET = "hh-electricity-import"


class Edp(msgspec.Struct, frozen=True):
    """An EDP and how it is registered."""

    client_id: str
    handles_last_known: bool = True
    answers: str = "plain"


EDPS = (Edp("edp-1"), Edp("edp-2", handles_last_known=False), Edp("edp-3", answers="signed"))
PUSHER = "pusher"
GUARDS = {"guard-1": EDPS[0], "guard-3": EDPS[2]}  # each EDP that has one asks it beside asking nodes itself
POLL_EVERY = 20  # seconds between a guard's audits; a quarter of an hour would be longer than the run


class Ports(msgspec.Struct, frozen=True):
    """Where the processes listen themselves. Links have ports of their own."""

    public: int
    machine: int
    console: int
    redis: int


class NodePorts(msgspec.Struct, frozen=True):
    """A node's own ports, and those of its links: to Redis, to the feed service, and the one that EDPs reach it by."""

    introspection: int
    status: int
    redis: int
    feed: int
    reached: int


class GuardPorts(msgspec.Struct, frozen=True):
    """A guard's own ports; pushed: of the link by which the pusher reaches it."""

    receiver: int
    status: int
    sidecar: int
    pushed: int


class Places(msgspec.Struct, frozen=True):
    """Folders below the one of the run."""

    root: Path

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    def config(self, name: str) -> Path:
        """Of a service: `admin`, `node-1`."""
        return self.root / f"{name}.toml"

    def secret(self, guard: str) -> Path:
        """What a guard's own programs show it."""
        return self.keys / f"{guard}.secret"

    def store_key(self, guard: str) -> Path:
        """Of a guard's memory."""
        return self.keys / f"{guard}.key"


def admin_settings(
    places: Places, ports: Ports, ledger_url: str, redis_port: int, machine_port: int, nodes: list[str]
) -> str:
    """redis_port, machine_port: of the links to Redis, and by which guards reach the machine API."""
    text = f"""\
introspection-endpoint = "https://localhost/introspect"

[ledger]
url = "{ledger_url}"
kind = "sandbox"
person-key-file = "{places.keys / "person.key"}"
checkpoint-key-file = "{places.keys / "checkpoint.pem"}"

[issuer]
issuer = "https://localhost:{ports.public}"
key-files = ["{places.keys / "token.pem"}"]

[web]
host = "{HOST}"
public-port = {ports.public}
machine-port = {ports.machine}
console-port = {ports.console}
machine-url = "https://localhost:{machine_port}"

[web.tls]
{_server(places)}

[feed]
mac-key-files = ["{places.keys / "feed-mac.key"}"]
meter-key-file = "{places.keys / "meter.key"}"

[redis]
url = "redis://{HOST}:{redis_port}"
"""
    for client, role in ((OPERATOR, "operator"), (PUSHER, "pusher"), *((node, "node") for node in nodes)):
        text += f"""
[[bootstrap]]
client-id = "{client}"
role = "{role}"
certificate-file = "{places.pki / f"{client}.pem"}"
"""
    return text


def node_settings(places: Places, ports: Ports, name: str, own: NodePorts, workers: int) -> str:
    """A node that knows Redis and the feed service by the ports of its links."""
    return f"""\
node-id = "{name}"
runtime-directory = "{places.root / name / "run"}"
workers = {workers}

[listener]
host = "{HOST}"
port = {own.introspection}
public-url = "https://localhost:{own.reached}"

[listener.tls]
{_server(places)}

[status]
host = "{HOST}"
port = {own.status}

[redis]
url = "redis://{HOST}:{own.redis}"

[feed]
url = "https://localhost:{own.feed}/feed"
ca-file = "{places.pki / "ca.pem"}"
certificate-file = "{places.pki / f"{name}.pem"}"
key-file = "{places.pki / f"{name}.key"}"
mac-key-files = ["{places.keys / "feed-mac.key"}"]
meter-key-file = "{places.keys / "meter.key"}"

[replica]
directory = "{places.root / name / "replica"}"
map-size = {1 << 28}

[signing]
directory = "{places.root / name / "answer-keys"}"

[tokens]
issuer = "https://localhost:{ports.public}"
one-issuer = true
"""


def pusher_settings(places: Places, ports: Ports, status: int, feed: int) -> str:
    """A pusher that knows the feed service by the port of its link."""
    files = f"""\
ca-file = "{places.pki / "ca.pem"}"
certificate-file = "{places.pki / f"{PUSHER}.pem"}"
key-file = "{places.pki / f"{PUSHER}.key"}"
"""
    return f"""\
pusher-id = "{PUSHER}"
issuer = "https://localhost:{ports.public}"
event-key-files = ["{places.keys / "event.pem"}"]

[feed]
url = "https://localhost:{feed}/feed"
{files}
[outgoing]
{files}allow-private-addresses = true

[status]
host = "{HOST}"
port = {status}
"""


def guard_settings(
    places: Places, ports: Ports, name: str, own: GuardPorts, nodes: list[int], machine_port: int
) -> str:
    """A guard as `ccs sandbox guard` sets it up. nodes, machine_port: of links."""
    edp = GUARDS[name]
    addresses = ", ".join(f'"https://localhost:{port}"' for port in nodes)
    return f"""\
client-id = "{edp.client_id}"
issuer = "https://localhost:{ports.public}"
answers = "{edp.answers}"

[service]
addresses = [{addresses}]
machine-url = "https://localhost:{machine_port}"
ca-file = "{places.pki / "ca.pem"}"
certificate-file = "{places.pki / f"{edp.client_id}.pem"}"
key-file = "{places.pki / f"{edp.client_id}.key"}"

[store]
directory = "{places.root / name}"
key-file = "{places.store_key(name)}"

[events]
poll-interval = {POLL_EVERY}

[events.receiver]
host = "{HOST}"
port = {own.receiver}
public-url = "https://localhost:{own.pushed}/events"
certificate-file = "{places.pki / f"{name}.pem"}"
key-file = "{places.pki / f"{name}.key"}"
client-ca-file = "{places.pki / "ca.pem"}"

[sidecar]
host = "{HOST}"
port = {own.sidecar}
secret-file = "{places.secret(name)}"
status-port = {own.status}
"""


def redis_settings(places: Places, port: int) -> str:
    """On loopback, durable as production's would be."""
    return f"""\
port {port}
bind {HOST}
dir "{places.redis}"
daemonize no
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
maxmemory 256mb
maxmemory-policy noeviction
logfile "{places.logs / "redis.log"}"
"""


def _server(places: Places) -> str:
    return f"""\
certificate-file = "{places.pki / "server.pem"}"
key-file = "{places.pki / "server.key"}"
client-ca-file = "{places.pki / "ca.pem"}\""""
