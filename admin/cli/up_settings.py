"""What `ccs up` writes into its folder: settings files of the two services, and `sandbox.json` for everybody else."""

from pathlib import Path
from typing import Final

import msgspec

from admin.cli.state_folder import (
    ATPS,
    EDPS,
    HOST,
    NODE,
    OPERATOR,
    PUSHER,
    SandboxConfig,
    StateFolder,
    write_atomically,
)

DATASETS: Final = {
    "edp-1": ("hh-electricity-import", "hh-electricity-export", "hh-gas"),
    "edp-2": ("hh-electricity-import", "hh-electricity-export", "hh-gas"),
    "edp-3": ("hh-electricity-import",),
}
LEDGER_FILE: Final = "ledger.db"
SIGNED: Final = "edp-3"  # the last one is registered for signed answers


class Addresses(msgspec.Struct, frozen=True):
    """Where the parts of a sandbox are reached."""

    introspection: str
    status: str
    public: str
    machine: str
    console: str
    pusher: str

    @classmethod
    def of(cls, config: SandboxConfig) -> "Addresses":
        return cls(
            introspection=f"https://localhost:{config.introspection_port}",
            status=f"http://{HOST}:{config.status_port}",
            public=f"https://localhost:{config.public_port}",
            machine=f"https://localhost:{config.machine_port}",
            console=f"https://localhost:{config.console_port}",
            pusher=f"http://{HOST}:{config.pusher_status_port}",
        )


def redis_url(config: SandboxConfig, embedded: str) -> str:
    return config.redis_url or embedded


def ledger_url(config: SandboxConfig, folder: StateFolder) -> str:
    return config.ledger_url or f"sqlite:///{folder.ledger / LEDGER_FILE}"


def write_node_settings(folder: StateFolder, config: SandboxConfig, redis: str) -> Path:
    """Settings of the engine node; paths are those of the folder."""
    at = Addresses.of(config)
    text = f"""\
node-id = "{NODE}"
runtime-directory = "{folder.run / "node"}"
workers = {config.workers}
log-level = "{config.log_level}"

[listener]
host = "{HOST}"
port = {config.introspection_port}
public-url = "{at.introspection}"

[listener.tls]
certificate-file = "{folder.pki / "server.pem"}"
key-file = "{folder.pki / "server.key"}"
client-ca-file = "{folder.pki / "ca.pem"}"

[status]
host = "{HOST}"
port = {config.status_port}

[redis]
url = "{redis}"

[feed]
url = "{at.machine}/feed"
ca-file = "{folder.pki / "ca.pem"}"
certificate-file = "{folder.pki / f"{NODE}.pem"}"
key-file = "{folder.pki / f"{NODE}.key"}"
mac-key-files = ["{folder.keys / "feed-mac.key"}"]
meter-key-file = "{folder.keys / "meter.key"}"

[replica]
directory = "{folder.directory / "replica"}"

[signing]
directory = "{folder.directory / "answer-keys"}"

[tokens]
issuer = "{at.public}"
one-issuer = true
"""
    return _write(folder.settings / "node.toml", text)


def write_pusher_settings(folder: StateFolder, config: SandboxConfig) -> Path:
    """Settings of the pusher. Everybody in a sandbox is on this machine, so private addresses are called."""
    at = Addresses.of(config)
    event_keys = ", ".join(f'"{path}"' for path in sorted(folder.keys.glob("event-*.pem"), reverse=True))
    files = f"""\
ca-file = "{folder.pki / "ca.pem"}"
certificate-file = "{folder.pki / f"{PUSHER}.pem"}"
key-file = "{folder.pki / f"{PUSHER}.key"}"
"""
    text = f"""\
pusher-id = "{PUSHER}"
issuer = "{at.public}"
event-key-files = [{event_keys}]
log-level = "{config.log_level}"

[feed]
url = "{at.machine}/feed"
{files}
[outgoing]
{files}allow-private-addresses = true

[status]
host = "{HOST}"
port = {config.pusher_status_port}
"""
    return _write(folder.settings / "pusher.toml", text)


def write_admin_settings(folder: StateFolder, config: SandboxConfig, redis: str) -> Path:
    """Settings of the admin application."""
    at = Addresses.of(config)
    token_keys = ", ".join(f'"{path}"' for path in sorted(folder.keys.glob("token-*.pem"), reverse=True))
    text = f"""\
introspection-endpoint = "{at.introspection}/introspect"
log-level = "{config.log_level}"

[ledger]
url = "{ledger_url(config, folder)}"
kind = "sandbox"
must-exist = {"true" if folder.has_ledger else "false"}
person-key-file = "{folder.keys / "person.key"}"
checkpoint-key-file = "{folder.keys / "checkpoint.pem"}"

[issuer]
issuer = "{at.public}"
key-files = [{token_keys}]

[web]
host = "{HOST}"
public-port = {config.public_port}
machine-port = {config.machine_port}
console-port = {config.console_port}

[web.tls]
certificate-file = "{folder.pki / "server.pem"}"
key-file = "{folder.pki / "server.key"}"
client-ca-file = "{folder.pki / "ca.pem"}"

[feed]
mac-key-files = ["{folder.keys / "feed-mac.key"}"]
meter-key-file = "{folder.keys / "meter.key"}"

[redis]
url = "{redis}"
"""
    for client, role in ((OPERATOR, "operator"), (NODE, "node"), (PUSHER, "pusher")):
        text += f"""
[[bootstrap]]
client-id = "{client}"
role = "{role}"
certificate-file = "{folder.pki / f"{client}.pem"}"
"""
    return _write(folder.settings / "admin.toml", text)


def describe(folder: StateFolder, config: SandboxConfig, redis: str, pids: dict[str, object]) -> dict[str, object]:
    """Write `sandbox.json`: addresses, certificates and process ids, for tests and for users' scripts."""
    at = Addresses.of(config)
    description: dict[str, object] = {
        "introspection_endpoint": f"{at.introspection}/introspect",
        "evaluation_endpoint": f"{at.introspection}/access/v1/evaluation",
        "evaluations_endpoint": f"{at.introspection}/access/v1/evaluations",
        "issuer": at.public,
        "admin_url": at.public,
        "admin_mtls_url": at.machine,
        "console_url": at.console,
        "feed_url": f"{at.machine}/feed",
        "node_status_url": at.status,
        "redis_url": redis,
        "ca_file": str(folder.pki / "ca.pem"),
        "edps": [
            {
                **client_files(folder, client),
                "datasets": list(DATASETS[client]),
                "answers": "signed" if client == SIGNED else "plain",
            }
            for client in EDPS
        ],
        "atps": [client_files(folder, client) for client in ATPS],
        "operator": client_files(folder, OPERATOR),
        "node": client_files(folder, NODE),
        "pusher": client_files(folder, PUSHER),
        "pusher_status_url": at.pusher,
        "pusher_config": str(folder.settings / "pusher.toml"),
        "node_config": str(folder.settings / "node.toml"),
        "admin_config": str(folder.settings / "admin.toml"),
        "pids": pids,
    }
    write_atomically(folder.description, msgspec.json.format(msgspec.json.encode(description), indent=2))
    return description


def client_files(folder: StateFolder, client: str) -> dict[str, str]:
    return {
        "client_id": client,
        "certificate_file": str(folder.pki / f"{client}.pem"),
        "key_file": str(folder.pki / f"{client}.key"),
    }


def _write(path: Path, text: str) -> Path:
    write_atomically(path, text.encode())
    return path
