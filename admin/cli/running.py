"""How client commands find the sandbox that they speak to: `sandbox.json` and the settings files in its folder."""

from pathlib import Path

import msgspec

from engine.errors import Fault, Kind


class NotRunning(Fault):
    """No sandbox was started on that folder."""

    kind = Kind.UNAVAILABLE


class NoSandbox(Fault):
    """No sandbox was ever started on that folder, so that there is nothing to look into."""

    kind = Kind.NOT_FOUND


class Client(msgspec.Struct, frozen=True):
    """A participant's certificate in the sandbox."""

    client_id: str
    certificate_file: Path
    key_file: Path
    datasets: tuple[str, ...] = ()
    answers: str = "plain"


class Sandbox(msgspec.Struct, frozen=True):
    """The description that `ccs up` writes; members it may gain later are ignored."""

    introspection_endpoint: str
    issuer: str
    admin_url: str
    admin_mtls_url: str
    console_url: str
    feed_url: str
    node_status_url: str
    redis_url: str
    ca_file: Path
    edps: tuple[Client, ...]
    atps: tuple[Client, ...]
    operator: Client
    node: Client
    node_config: Path
    admin_config: Path
    pids: dict[str, int | list[int]]
    pusher_status_url: str = ""
    pusher_config: Path | None = None
    pusher: Client | None = None


def load_sandbox(state: Path) -> Sandbox:
    """Read STATE/sandbox.json. Raises NotRunning with one sentence."""
    path = state / "sandbox.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sandbox, dec_hook=_path)
    except FileNotFoundError:
        raise NotRunning(_nothing_in(state)) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise NotRunning(f"{path} cannot be read: {error}") from error


def settings_file(state: Path, name: str) -> Path:
    """Where the sandbox in STATE keeps the settings of a service: `admin.toml`, `node.toml`. Raises NoSandbox."""
    path = state / "config" / name
    if not path.exists():
        raise NoSandbox(_nothing_in(state))
    return path


def _nothing_in(state: Path) -> str:
    return f"no sandbox in {state}: start one with `ccs up --state {state}`"


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no decoder for {kind}")
