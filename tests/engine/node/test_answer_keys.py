"""A node's answer keys: made once, registered, acknowledged, rotated; and with which one a worker signs."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from engine.clock import BootTime, UnixTime
from engine.config import BadConfig
from engine.errors import Fault
from engine.node.answer_key_files import SEEN_AFTER, AnswerKeyFiles, CurrentAnswerKey
from engine.node.answer_registration import AGAIN_AFTER, AnswerRegistration
from engine.tokens.answer_key_statements import LIFE, read_statement
from engine.tokens.answer_keys import new_answer_key
from tests.support.pki import ISSUER, NOW


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> UnixTime:
        return self.at

    def boot(self) -> BootTime:
        return BootTime(0.0)


class Issuer:
    """Takes statements as the real one does, unless it is away."""

    def __init__(self, clock: Hands) -> None:
        self.clock = clock
        self.away = 0
        self.taken: list[str] = []

    async def register_answer_key(self, statement: bytes) -> tuple[str, int]:
        await trio.lowlevel.checkpoint()
        if self.away:
            self.away -= 1
            raise Fault("away")
        read = read_statement(statement, node_id="node-1", issuer=ISSUER, now=self.clock.at)
        self.taken.append(read.key.kid)
        return read.key.kid, read.exp


class Keys:
    """A node's directory, its feeder's part and its workers'."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "answer-keys"
        self.clock = Hands()
        self.issuer = Issuer(self.clock)
        self.files = AnswerKeyFiles(self.directory, ISSUER)
        self.files.make_first()
        self.worker = CurrentAnswerKey(self.files)
        self.feeder = AnswerRegistration(
            self.files, self.issuer, node_id="node-1", issuer=ISSUER, clock=self.clock, jitter=lambda: 0.5
        )

    def add(self, name: str, mode: int = 0o600, content: bytes | None = None) -> None:
        path = self.directory / name
        path.write_bytes(new_answer_key() if content is None else content)
        path.chmod(mode)

    def signs(self) -> str | None:
        self.worker.refresh()
        signer = self.worker.signer(self.clock.at)
        return None if signer is None else signer.kid

    def kids(self) -> list[str]:
        return [key.signer.kid for key in self.files.read()]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_the_first_key_is_made_once_and_for_its_owner_alone(keys: Keys) -> None:
    before = keys.kids()
    keys.files.make_first()
    assert keys.kids() == before
    assert len(before) == 1
    assert (keys.directory / "0001.pem").stat().st_mode & 0o777 == 0o600
    assert keys.directory.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in keys.directory.iterdir()] == ["0001.pem"]


async def test_nothing_is_signed_before_the_issuer_publishes_the_key(keys: Keys) -> None:
    assert keys.signs() is None
    keys.issuer.away = 1
    with pytest.raises(Fault):
        await keys.feeder.once()
    assert keys.signs() is None
    assert keys.feeder.published_until == 0
    await keys.feeder.once()
    assert [keys.signs()] == keys.kids() == keys.issuer.taken
    assert keys.feeder.published_until == NOW + LIFE


async def test_a_restart_without_the_feed_goes_on_with_the_acknowledged_key(keys: Keys, tmp_path: Path) -> None:
    await keys.feeder.once()
    again = Keys(tmp_path)
    again.issuer.away = 1_000
    await again.feeder.once()  # nothing is due
    assert again.signs() == keys.signs() is not None
    assert again.feeder.published_until == NOW + LIFE
    assert again.issuer.taken == []


async def test_nothing_is_signed_when_the_publication_is_over(keys: Keys) -> None:
    await keys.feeder.once()
    keys.clock.at = UnixTime(NOW + LIFE - 1)
    assert keys.signs() is not None
    keys.clock.at = UnixTime(NOW + LIFE)
    assert keys.signs() is None


async def test_the_publication_is_prolonged_daily(keys: Keys) -> None:
    for at, calls in ((NOW, 1), (NOW + AGAIN_AFTER - 1, 1), (NOW + AGAIN_AFTER, 2), (NOW - 1, 3)):
        keys.clock.at = UnixTime(at)
        await keys.feeder.once()
        assert len(keys.issuer.taken) == calls


async def test_a_rotation_signs_with_the_old_key_until_the_new_one_can_be_known(keys: Keys) -> None:
    await keys.feeder.once()
    old = keys.signs()
    keys.clock.at = UnixTime(NOW + SEEN_AFTER)
    keys.add("0002.pem")
    assert keys.signs() == old
    await keys.feeder.once()
    assert keys.signs() == old
    keys.clock.at = UnixTime(keys.clock.at + SEEN_AFTER)
    assert keys.signs() == keys.kids()[0] != old
    assert keys.issuer.taken == [old, keys.kids()[0]]


async def test_another_issuers_word_does_not_count(keys: Keys) -> None:
    await keys.feeder.once()
    other = CurrentAnswerKey(AnswerKeyFiles(keys.directory, "https://elsewhere"))
    other.refresh()
    assert other.signer(NOW) is None


async def test_a_word_about_another_key_does_not_count(keys: Keys) -> None:
    await keys.feeder.once()
    keys.add("0001.pem")
    assert keys.signs() is None


@pytest.mark.parametrize(("mode", "content"), [(0o640, None), (0o600, b"no key")])
async def test_a_bad_file_is_named_and_leaves_the_old_key_in_use(keys: Keys, mode: int, content: bytes | None) -> None:
    await keys.feeder.once()
    old = keys.signs()
    keys.add("0002.pem", mode, content)
    with pytest.raises(BadConfig, match=r"0002\.pem"):
        await keys.feeder.once()
    assert keys.signs() == old is not None


async def test_a_feed_service_that_is_away_is_asked_again_and_again(
    keys: Keys,
    autojump_clock: MockClock,  # noqa: ARG001 - the time that passes
) -> None:
    keys.issuer.away = 5
    with trio.move_on_after(600):
        await keys.feeder.run()
    assert keys.issuer.away == 0
    assert keys.issuer.taken == keys.kids()
    assert trio.current_time() == pytest.approx(600)


async def test_a_new_file_is_found_without_a_signal(
    keys: Keys,
    autojump_clock: MockClock,  # noqa: ARG001 - the time that passes
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.feeder.run)
        await trio.sleep(60)
        keys.add("0002.pem")
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert keys.issuer.taken == keys.kids()[::-1]


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadConfig, match="file"):
        AnswerKeyFiles(tmp_path / "file" / "keys", ISSUER).make_first()
