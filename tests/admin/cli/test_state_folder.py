"""The folder of `ccs up` is made once, taken up again, and never mistaken for another."""

import itertools
import socket
from pathlib import Path

import pytest

from admin.cli.children import STATE_MARK, Child, ChildFailed, Revival, end_left_over
from admin.cli.sandbox_identities import make_identities
from admin.cli.state_folder import BadState, SandboxConfig, StateFolder, load_sandbox_config, settle_ports
from engine.clock import Seconds
from engine.config import BadConfig
from tests.support.sandbox import eventually


def test_a_new_folder_is_made_and_taken_up_again_until_it_is_complete(tmp_path: Path) -> None:
    first = StateFolder(tmp_path / "var")
    assert first.open() is True
    first.close()
    second = StateFolder(tmp_path / "var")
    assert second.open() is True
    second.complete()
    second.close()
    assert StateFolder(tmp_path / "var").open() is False


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadState, match="holds something else"):
        StateFolder(tmp_path).open()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("marker", "said"), [(b"{", "cannot be read"), (b'{"format": 99, "complete": true}', "another version")]
)
def test_a_marker_that_is_broken_or_foreign_is_refused(tmp_path: Path, marker: bytes, said: str) -> None:
    (tmp_path / "state.json").write_bytes(marker)
    with pytest.raises(BadState, match=said):
        StateFolder(tmp_path).open()


def test_a_second_start_on_the_same_folder_is_kept_out(tmp_path: Path) -> None:
    first = StateFolder(tmp_path)
    first.open()
    with pytest.raises(BadState, match="another `ccs up` runs"):
        StateFolder(tmp_path).open()
    first.close()


def test_a_folder_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadState, match="Not a directory"):
        StateFolder(tmp_path / "file" / "var").open()


def test_a_name_that_settings_files_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadState, match="such a name"):
        StateFolder(tmp_path / 'quo"te').open()


def test_a_lost_key_is_named(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    with pytest.raises(BadState, match=r"keys/meter\.key is missing"):
        folder.check_files(folder.keys / "meter.key")


def test_a_ledger_that_began_is_known_to_later_starts_even_of_a_folder_that_is_not_complete(tmp_path: Path) -> None:
    first = StateFolder(tmp_path)
    assert first.open()
    assert not first.has_ledger
    first.note_ledger()
    first.close()
    second = StateFolder(tmp_path)
    assert (second.open(), second.has_ledger) == (True, True)
    second.complete()
    second.close()
    third = StateFolder(tmp_path)
    assert (third.open(), third.has_ledger) == (False, True)
    third.close()
    (tmp_path / "state.json").write_text('{"format":1,"complete":true}')  # as earlier versions wrote it
    old = StateFolder(tmp_path)
    assert (old.open(), old.has_ledger) == (False, True)
    old.close()


def test_a_port_in_use_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadState, match=f"port {port} is in use.*public-port"):
            settle_ports(SandboxConfig(introspection_port=0, status_port=0, public_port=port))


def test_zeros_become_free_ports_all_different() -> None:
    names = [name for name in SandboxConfig.__struct_fields__ if name.endswith("_port")]
    zeros = SandboxConfig(**dict.fromkeys(names, 0))
    settled = settle_ports(zeros)
    ports = [getattr(settled, name) for name in settled.__struct_fields__ if name.endswith("_port")]
    assert 0 not in ports
    assert len(set(ports)) == len(ports) == len(names)


def test_settings_of_up_are_strict(tmp_path: Path) -> None:
    (tmp_path / "up.toml").write_text("workres = 3")
    with pytest.raises(BadConfig, match="workres"):
        load_sandbox_config(tmp_path / "up.toml")


def test_a_child_that_ends_at_once_says_its_last_words(tmp_path: Path) -> None:
    child = Child("node", ["/bin/sh", "-c", "echo cannot go on; exit 1"], tmp_path / "node.log")
    child.start()
    with pytest.raises(ChildFailed, match="node did not start: cannot go on"):
        child.wait_ready(lambda: False, Seconds(10.0))


def test_what_an_earlier_start_left_is_ended_and_strangers_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Child("other", ["/bin/sleep", "60"], tmp_path / "b.log")
    stranger.start()
    monkeypatch.setenv(STATE_MARK, str(tmp_path / "another"))
    neighbour = Child("neighbour", ["/bin/sleep", "60"], tmp_path / "d.log")
    neighbour.start()
    monkeypatch.setenv(STATE_MARK, str(tmp_path))
    ours = Child("node", ["/bin/sleep", "60"], tmp_path / "c.log")
    ours.start()
    eventually(lambda: STATE_MARK in Path(f"/proc/{ours.pid}/environ").read_text())
    try:
        assert end_left_over(tmp_path) == 1
        assert (stranger.alive(), neighbour.alive(), ours.alive()) == (True, True, False)
        assert end_left_over(tmp_path) == 0
    finally:
        for child in (stranger, neighbour, ours):
            child.stop()


def test_a_part_that_ends_is_started_again_at_once_and_then_ever_more_slowly() -> None:
    started: list[float] = []
    alive = False
    clock = 0.0

    def start() -> None:
        started.append(clock)

    revival = Revival("admin", lambda: alive, start)
    assert revival.look(clock, 0.0) == "admin ended; starting it again"
    for _ in range(200):
        clock += 0.1
        revival.look(clock, 0.0)
    waits = [later - sooner for sooner, later in itertools.pairwise(started)]
    assert started[0] < 0.2
    assert waits[:4] == sorted(waits[:4])
    assert 2 < waits[-1] < 11


def test_a_start_that_fails_is_tried_again_and_said() -> None:
    def start() -> None:
        raise ChildFailed("the port is in use")

    revival = Revival("redis", lambda: False, start)
    revival.look(0.0, 0.0)
    assert revival.look(0.0, 0.0) == "redis did not start, trying again: the port is in use"
    assert revival.look(0.1, 0.0) == ""
    assert "trying again" in revival.look(10.0, 0.0)


def test_a_folder_from_before_there_was_a_pusher_gets_one_and_one_that_lost_a_part_of_it_is_refused(
    tmp_path: Path,
) -> None:
    folder = StateFolder(tmp_path)
    make_identities(folder, new=folder.open())
    parts = [folder.pki / "pusher-1.pem", folder.pki / "pusher-1.key", folder.keys / "event-1.pem"]
    for path in parts:
        path.unlink()
    make_identities(folder, new=False)
    assert all(path.exists() for path in parts)
    parts[2].unlink()
    with pytest.raises(BadState, match=r"event-1\.pem is missing"):
        make_identities(folder, new=False)
    folder.close()
