"""`ccs check-config FILE`: decode a settings file and read every file that it names, by the services' own code."""

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from admin.cli.state_folder import load_sandbox_config
from engine.config import BadConfig, NodeConfig, Redis, decode, load_node_config
from engine.guard.config import GuardConfig, load_guard_config
from engine.pusher.config import PusherConfig, load_pusher_config

if TYPE_CHECKING:  # not where only a guard is installed
    from admin.config import AdminConfig

Reading = Callable[[], object]

OUTPUT_FIELDS: Final = {"directory", "runtime_directory", "socket"}  # made by the service itself
# Names at the top of a file that only one service knows.
_OF_GUARD: Final = {"client-id", "service", "store"}
_OF_ADMIN: Final = {"ledger", "issuer", "web", "bootstrap"}
_OF_PUSHER: Final = {"pusher-id", "outgoing", "event-key-files"}
_OF_NODE: Final = {"listener", "node-id", "replica", "tokens"}


def check_config(file: Path) -> None:
    """Say whether FILE would be taken by `ccs admin`, `node`, `pusher`, `guard` or `up`.

    Keys and certificates are read too.

    Exit code 0: it would be. 2: it would not, and one sentence says why.

    Parameters
    ----------
    file
        A TOML file; one with a `service` table is a guard's, one with a `ledger` table the admin application's, one
        with a `listener` table a node's, one with an `outgoing` table a pusher's, any other the sandbox's.
    """
    config, command, readings = _load(file)
    missing = [path for path in named_files(config) if not os.access(path, os.R_OK)]
    if missing:
        raise BadConfig(f"{file}: cannot read {', '.join(str(path) for path in missing)}")
    for read in readings:
        read()
    print(f"{file}: good, for `{command}`")


def named_files(config: Any) -> list[Path]:  # noqa: ANN401 - walks any settings struct
    """Every file that a settings struct names and that must exist before the service starts."""
    if isinstance(config, Path):
        return [config]
    if isinstance(config, tuple):
        return [path for item in config for path in named_files(item)]
    if not isinstance(config, msgspec.Struct):
        return []
    fields = [name for name in config.__struct_fields__ if name not in OUTPUT_FIELDS]
    return [path for name in fields for path in named_files(getattr(config, name))]


def _load(file: Path) -> tuple[msgspec.Struct, str, list[Reading]]:
    """The settings, the command that they are for, and what it reads before it starts, in its order.

    Each of those raises a Fault that names the file. Raises BadConfig.
    """
    names = decode(file, dict[str, Any]).keys()
    if names & _OF_GUARD:  # first: its `issuer` is a name, the admin application's a table
        guard = load_guard_config(file)
        return guard, "ccs guard", _readings_of_guard(guard)
    if names & _OF_PUSHER:
        pusher = load_pusher_config(file)
        return pusher, "ccs pusher", _readings_of_pusher(pusher)
    if names & _OF_ADMIN:
        from admin.config import load_admin_config

        admin = load_admin_config(file)
        return admin, "ccs admin", [*_readings_of_admin(admin), *_readings_of_redis(admin.redis)]
    if names & _OF_NODE:
        node = load_node_config(file)
        return node, "ccs node", [*_readings_of_node(node), *_readings_of_redis(node.redis)]
    return load_sandbox_config(file), "ccs up --config", []


def _readings_of_admin(config: "AdminConfig") -> list[Reading]:
    from admin.bootstrap import first_participants
    from admin.keys import load_secrets
    from admin.listeners import tls_context
    from admin.pki.key_files import load_secret
    from admin.pki.keys import FileCheckpointSigner
    from engine.telemetry.host import SystemClock

    return [
        partial(load_secrets, config),
        partial(first_participants, config.bootstrap, SystemClock().now()),
        partial(tls_context, config.web.tls, client_certificates=True),
        partial(load_secret, config.ledger.person_key_file),
        partial(FileCheckpointSigner.load, config.ledger.checkpoint_key_file),
    ]


def _readings_of_node(config: NodeConfig) -> list[Reading]:
    from engine.feed.feed_tls import feed_tls
    from engine.listener.forwarded import thumbprints
    from engine.listener.tls import server_context
    from engine.node.key_files import read_key, read_keys

    tls, proxy = config.listener.tls, config.proxy_listener
    of_proxies: list[Reading] = []
    if proxy is not None:
        of_proxies.append(
            partial(server_context, proxy.tls.certificate_file, proxy.tls.key_file, proxy.tls.client_ca_file)
        )
        of_proxies.append(partial(thumbprints, proxy.pinned_thumbprints))
    return [
        *of_proxies,
        partial(read_keys, config.feed.mac_key_files),
        partial(read_key, config.feed.meter_key_file),
        partial(server_context, tls.certificate_file, tls.key_file, tls.client_ca_file),
        partial(feed_tls, config.feed),
    ]


def _readings_of_pusher(config: PusherConfig) -> list[Reading]:
    from engine.pusher.event_keys import read_event_keys
    from engine.pusher.main import client_tls

    return [
        partial(client_tls, config.feed, "feed"),
        partial(client_tls, config.outgoing, "outgoing"),
        partial(read_event_keys, config.event_key_files),
    ]


def _readings_of_guard(config: GuardConfig) -> list[Reading]:
    from engine.guard.checking import readings

    return readings(config)


def _readings_of_redis(redis: Redis | None) -> list[Reading]:
    if redis is None:
        return []
    from engine.feed.redis_access import RedisAccess

    return [partial(RedisAccess, redis, jitter=random.random)]
