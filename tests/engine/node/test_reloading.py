"""What becomes of each changed setting: in place, by fresh processes, or only by a full restart."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.config import Feed, Listener, NodeConfig, ProxyListener, Redis, Replica, Status, Tls, Tokens
from engine.node.reloading import Standing, changes, possible, standing

HERE = Path("/nowhere")
CONFIG = NodeConfig(
    node_id="node-a",
    listener=Listener(tls=Tls(certificate_file=HERE / "c", key_file=HERE / "k", client_ca_file=HERE / "ca")),
    status=Status(),
    feed=Feed(
        url="https://localhost:1/feed",
        ca_file=HERE / "ca",
        certificate_file=HERE / "c",
        key_file=HERE / "k",
        mac_key_files=(HERE / "mac",),
        meter_key_file=HERE / "meter",
    ),
    replica=Replica(directory=HERE / "replica"),
    tokens=Tokens(issuer="https://localhost:8450"),
    runtime_directory=HERE / "run",
)


def altered(name: str, value: Any) -> NodeConfig:
    """name: dotted attribute names."""
    first, _, rest = name.partition(".")
    if rest:
        value = msgspec.structs.replace(getattr(CONFIG, first), **{rest: value})
    return msgspec.structs.replace(CONFIG, **{first: value})


def found(new: NodeConfig) -> Any:
    return changes(Standing(CONFIG, {}), Standing(new, {}))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("log_level", "debug", "log-level"),
        ("drain_timeout", 3.0, "drain-timeout"),
        ("listener.max_connections", 5, "listener.max-connections"),
        ("listener.idle_timeout", 5.0, "listener.idle-timeout"),
        ("listener.max_body", 5, "listener.max-body"),
    ],
)
def test_taken_in_place(name: str, value: Any, said: str) -> None:
    result = found(altered(name, value))
    assert (result.in_place, result.renewing, result.full_restart) == ((said,), (), ())
    assert (result.workers, result.feeder) == (False, False)


@pytest.mark.parametrize(
    ("name", "value", "said", "feeder"),
    [
        ("tokens.issuer", "https://localhost:1", "tokens.issuer", True),
        ("tokens.memo_size", 7, "tokens.memo-size", True),
        ("feed.url", "https://localhost:2/feed", "feed.url", True),
        ("feed.mac_key_files", (HERE / "new", HERE / "mac"), "feed.mac-key-files", True),
        ("redis", Redis(url="redis://localhost:1"), "redis", True),
        (
            "listener.tls",
            Tls(certificate_file=HERE / "other", key_file=HERE / "k", client_ca_file=HERE / "ca"),
            "listener.tls.certificate-file",
            False,
        ),
    ],
)
def test_taken_by_fresh_processes(name: str, value: Any, said: str, feeder: bool) -> None:
    result = found(altered(name, value))
    assert (result.in_place, result.renewing, result.full_restart) == ((), (said,), ())
    assert (result.workers, result.feeder) == (True, feeder)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("node_id", "node-b", "node-id"),
        ("workers", 7, "workers"),
        ("runtime_directory", HERE / "other", "runtime-directory"),
        ("listener.host", "::1", "listener.host"),
        ("listener.port", 1, "listener.port"),
        ("status.port", 1, "status.port"),
        ("replica.directory", HERE / "other", "replica.directory"),
        (
            "proxy_listener",
            ProxyListener(tls=CONFIG.listener.tls, pinned_thumbprints=()),
            "proxy-listener",
        ),
        ("replica.map_size", 1 << 20, "replica.map-size"),
    ],
)
def test_taken_by_a_full_restart_only_and_left_as_it_was(name: str, value: Any, said: str) -> None:
    new = altered(name, value)
    result = found(new)
    assert (result.in_place, result.renewing, result.full_restart) == ((), (), (said,))
    assert (result.workers, result.feeder) == (False, False)
    assert possible(CONFIG, new) == CONFIG


def test_what_is_possible_is_taken_beside_what_is_not() -> None:
    new = msgspec.structs.replace(altered("listener.port", 1), log_level="debug")
    assert possible(CONFIG, new) == altered("log_level", "debug")


def test_the_same_settings_change_nothing() -> None:
    assert found(CONFIG) == changes(standing(CONFIG), standing(CONFIG))
    assert not found(CONFIG).workers


def stored(directory: Path) -> NodeConfig:
    files = {name: directory / name for name in ("c", "k", "ca", "mac", "meter")}
    for path in files.values():
        path.write_bytes(b"old")
    tls = Tls(certificate_file=files["c"], key_file=files["k"], client_ca_file=files["ca"])
    feed = msgspec.structs.replace(
        CONFIG.feed,
        mac_key_files=(files["mac"],),
        meter_key_file=files["meter"],
        ca_file=files["ca"],
        certificate_file=files["c"],
        key_file=files["k"],
    )
    return msgspec.structs.replace(CONFIG, feed=feed, listener=Listener(tls=tls))


@pytest.mark.parametrize(
    ("file", "said"),
    [("mac", "feed.mac-key-files[0]"), ("meter", "feed.meter-key-file"), ("c", None), ("k", None), ("ca", None)],
)
def test_changed_keys_need_fresh_processes_and_changed_certificates_do_not(
    tmp_path: Path, file: str, said: str | None
) -> None:
    config = stored(tmp_path)
    before = standing(config)
    (tmp_path / file).write_bytes(b"new")
    result = changes(before, standing(config))
    assert result.contents == ((said,) if said else ())
    assert result.workers == result.feeder == (said is not None)
