"""`ccs check-config` says yes or why not, and reads the files that a setting names as the service would."""

from pathlib import Path

import pytest

from admin.cli.check_config import check_config, named_files
from admin.cli.sandbox_identities import make_identities
from admin.cli.state_folder import SandboxConfig, StateFolder
from admin.cli.up_settings import write_admin_settings, write_node_settings
from engine.config import BadConfig, load_node_config
from engine.errors import Fault, Kind


@pytest.fixture
def bare(tmp_path: Path) -> StateFolder:
    made = StateFolder(tmp_path / "var")
    made.open()
    return made


@pytest.fixture
def folder(bare: StateFolder) -> StateFolder:
    """With keys and certificates."""
    make_identities(bare, new=True)
    return bare


def admin_settings(folder: StateFolder) -> Path:
    return write_admin_settings(folder, SandboxConfig(), "unix:///nowhere")


def node_settings(folder: StateFolder) -> Path:
    return write_node_settings(folder, SandboxConfig(), "unix:///nowhere")


def refusal(config: Path) -> str:
    with pytest.raises(Fault) as caught:
        check_config(config)
    assert caught.value.kind is Kind.INVALID
    return caught.value.text


def test_settings_are_taken_when_every_named_file_is_good(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    check_config(node_settings(folder))
    assert capsys.readouterr().out.endswith("good, for `ccs node`\n")
    check_config(admin_settings(folder))
    assert capsys.readouterr().out.endswith("good, for `ccs admin`\n")


@pytest.mark.parametrize("text", ["", "workers = 2\n", "# not [ledger] nor [listener]\nlog-level = 'debug'\n"])
def test_any_other_file_is_the_sandboxs(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sandbox.toml").write_text(text)
    check_config(tmp_path / "sandbox.toml")
    assert capsys.readouterr().out.endswith("good, for `ccs up --config`\n")


def test_the_kind_is_told_by_the_tables_and_not_by_their_spelling(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    node, admin = node_settings(folder), admin_settings(folder)
    node.write_text("# beside the one with [ledger]\n" + node.read_text())
    admin.write_text(admin.read_text().replace("[ledger]", "[ ledger ]"))
    check_config(node)
    check_config(admin)
    assert [line.split("`")[1] for line in capsys.readouterr().out.splitlines()] == ["ccs node", "ccs admin"]


def test_a_missing_file_is_named(bare: StateFolder) -> None:
    assert "cannot read" in refusal(admin_settings(bare))


@pytest.mark.parametrize(
    "name",
    [
        *("keys/token-1.pem", "keys/person.key", "keys/checkpoint.pem", "keys/feed-mac.key", "keys/meter.key"),
        *("pki/server.key", "pki/server.pem", "pki/ca.pem", "pki/operator-1.pem"),
    ],
)
def test_a_file_of_garbage_is_named(folder: StateFolder, name: str) -> None:
    config = admin_settings(folder)
    (folder.directory / name).write_bytes(b"garbage")
    assert (folder.directory / name).stem in refusal(config)


@pytest.mark.parametrize("name", ["feed-mac.key", "meter.key"])
def test_a_nodes_key_of_garbage_is_named(folder: StateFolder, name: str) -> None:
    config = node_settings(folder)
    (folder.keys / name).write_bytes(b"garbage")
    assert name in refusal(config)


@pytest.mark.parametrize("name", ["server.key", "node-1.key", "ca.pem"])
def test_a_nodes_certificates_are_tried(folder: StateFolder, name: str) -> None:
    config = node_settings(folder)
    (folder.pki / name).write_bytes(b"garbage")
    assert name in refusal(config)


@pytest.mark.parametrize("name", ["token-1.pem", "person.key", "checkpoint.pem", "feed-mac.key", "meter.key"])
def test_a_key_that_others_may_read_is_refused(folder: StateFolder, name: str) -> None:
    config = admin_settings(folder)
    (folder.keys / name).chmod(0o644)
    assert f"chmod 600 {folder.keys / name}" in refusal(config)


def test_a_redis_address_that_is_none_is_refused(folder: StateFolder) -> None:
    config = node_settings(folder)
    config.write_text(config.read_text().replace("unix:///nowhere", "gopher://nowhere"))
    assert refusal(config)


def test_what_the_service_makes_itself_is_not_asked_for(bare: StateFolder) -> None:
    config = load_node_config(node_settings(bare))
    named = named_files(config)
    assert config.feed.key_file in named
    assert config.replica.directory not in named
    assert config.runtime_directory not in named


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        check_config(tmp_path / "absent.toml")


def test_a_file_that_is_not_text_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"a = '\xff'")
    assert "not UTF-8" in refusal(tmp_path / "binary.toml")
