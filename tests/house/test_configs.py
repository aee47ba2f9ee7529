"""Every example configuration decodes, and bad ones are refused in one sentence that names the place."""

from pathlib import Path

import pytest

from admin.cli.state_folder import SandboxConfig, load_sandbox_config
from admin.config import load_admin_config
from engine.config import BadConfig, load_node_config
from engine.pusher.config import load_pusher_config

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*node*.toml")), ids=lambda p: p.name)
def test_node_examples_decode(path: Path) -> None:
    assert load_node_config(path).node_id


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*pusher*.toml")), ids=lambda p: p.name)
def test_pusher_examples_decode(path: Path) -> None:
    assert load_pusher_config(path).pusher_id


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*admin*.toml")), ids=lambda p: p.name)
def test_admin_examples_decode(path: Path) -> None:
    assert load_admin_config(path).issuer.issuer.startswith("https://")


def test_the_guards_example_decodes() -> None:
    from engine.guard.config import load_guard_config

    config = load_guard_config(CONFIGS / "guard.toml")
    assert config.sidecar is not None
    assert config.events.receiver is not None
    assert config.store.directory == CONFIGS / "../guard/edp-1/store"


def test_the_sandboxs_example_says_the_defaults() -> None:
    assert load_sandbox_config(CONFIGS / "sandbox.toml") == SandboxConfig()


def test_there_is_an_example_of_today_and_of_the_next_step_for_each_service() -> None:
    names = {p.name for p in CONFIGS.glob("*.toml")}
    assert names >= {
        f"{kind}.{service}{step}.toml"
        for kind in ("embedded", "production")
        for service in ("node", "admin", "pusher")
        for step in ("", ".next")
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("port = 8440", "port = 84400"), "Expected `int` <= 65535"),
        (("[listener]", "[listener]\nprot = 1"), "unknown field `prot`"),
        (("node-id", "nodeid"), "nodeid"),
        (("[listener]", "[listener"), "embedded.node.toml"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    text = (CONFIGS / "embedded.node.toml").read_text()
    assert change[0] in text
    bad = tmp_path / "embedded.node.toml"
    bad.write_text(text.replace(change[0], change[1], 1))
    with pytest.raises(BadConfig) as caught:
        load_node_config(bad)
    assert said in caught.value.text
    assert "\n" not in caught.value.text


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        load_node_config(tmp_path / "absent.toml")


def test_relative_paths_stand_relative_to_the_file(tmp_path: Path) -> None:
    copy = tmp_path / "node.toml"
    copy.write_text((CONFIGS / "embedded.node.toml").read_text())
    assert load_node_config(copy).replica.directory == tmp_path / ".." / "replica"
