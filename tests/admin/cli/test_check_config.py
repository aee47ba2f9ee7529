"""`ccs check-config` says yes or why not, and looks for the files that a setting names."""

from pathlib import Path

import pytest

from admin.cli.check_config import check_config, named_files
from admin.cli.state_folder import SandboxConfig, StateFolder
from admin.cli.up_settings import write_admin_settings, write_node_settings
from engine.config import BadConfig, load_node_config


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    made = StateFolder(tmp_path / "var")
    made.open()
    return made


def touch_named_files(config: Path) -> None:
    for path in named_files(load_node_config(config)):
        path.write_text("")


def test_a_nodes_settings_are_taken_when_every_named_file_is_there(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_node_settings(folder, SandboxConfig(), "unix:///nowhere")
    touch_named_files(config)
    check_config(config)
    assert capsys.readouterr().out.endswith("good, for `ccs node`\n")


def test_a_missing_file_is_named(folder: StateFolder) -> None:
    config = write_admin_settings(folder, SandboxConfig(), "unix:///nowhere")
    with pytest.raises(BadConfig, match=r"cannot read .*person\.key"):
        check_config(config)


def test_what_the_service_makes_itself_is_not_asked_for(folder: StateFolder) -> None:
    config = load_node_config(write_node_settings(folder, SandboxConfig(), "unix:///nowhere"))
    named = named_files(config)
    assert config.feed.key_file in named
    assert config.replica.directory not in named
    assert config.runtime_directory not in named


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        check_config(tmp_path / "absent.toml")
