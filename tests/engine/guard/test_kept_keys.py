"""Answer keys outlive the guard's process: sealed, for a day, and never in place of what is published now."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from trio.testing import MockClock

from engine.clock import UnixTime
from engine.guard.calls import Reply
from engine.guard.config import AnswerForm, Store
from engine.guard.evidence_words import Failure
from engine.guard.kept_keys import FILE, LONGEST, KeptKeys
from engine.guard.keys import AnswerKeys
from engine.guard.shares import Reason
from engine.tokens.answer_keys import PemAnswerSigner
from tests.engine.guard.test_keys import Issuer
from tests.support.guard_answers import ISSUER, jwks
from tests.support.guard_stand import Stand, answers_signed
from tests.support.guard_words import NOW, share

OTHER = PemAnswerSigner(ec.generate_private_key(ec.SECP256R1()))


class Disk:
    """A store's directory and a wall clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = NOW
        self.key = directory / "store.key"
        self.key.touch(mode=0o600)
        self.key.write_bytes(os.urandom(32))

    @property
    def file(self) -> Path:
        return self.directory / FILE

    def shelf(self, owner: str = "edp-7", previous: Path | None = None) -> KeptKeys:
        settings = Store(directory=self.directory, key_file=self.key, previous_key_file=previous)
        return KeptKeys(settings, owner, lambda: UnixTime(self.now))

    def replace_key(self) -> Path:
        """Where the old one is then."""
        previous = self.key.rename(self.directory / "old.key")
        self.key.touch(mode=0o600)
        self.key.write_bytes(os.urandom(32))
        return previous


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_what_was_kept_is_there_for_the_next_process(disk: Disk) -> None:
    assert disk.shelf().load() is None
    disk.shelf().keep(jwks())
    assert disk.shelf().load() == jwks()
    assert disk.file.stat().st_mode & 0o777 == 0o600
    assert jwks()[10:40] not in disk.file.read_bytes()
    assert [path.name for path in disk.directory.iterdir() if path.name.startswith(FILE)] == [FILE]


@pytest.mark.parametrize(("age", "there"), [(LONGEST - 1, True), (LONGEST, False), (-60, True), (-61, False)])
def test_a_set_is_good_for_a_day_from_its_fetching(disk: Disk, age: float, there: bool) -> None:
    disk.shelf().keep(jwks())
    disk.now = UnixTime(NOW + int(age))
    assert (disk.shelf().load() is not None) is there


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw[:40] + b"x" + raw[41:], lambda _: b""])
def test_what_was_changed_is_none(disk: Disk, change: object) -> None:
    disk.shelf().keep(jwks())
    disk.file.write_bytes(change(disk.file.read_bytes()))  # type: ignore[operator] # one of those above
    assert disk.shelf().load() is None


def test_another_edps_file_and_one_of_another_key_are_none(disk: Disk) -> None:
    disk.shelf().keep(jwks())
    assert disk.shelf("edp-8").load() is None
    disk.key.write_bytes(os.urandom(32))
    assert disk.shelf().load() is None


def test_what_was_kept_outlives_a_replacement_of_the_key(disk: Disk) -> None:
    """The one start that knows both keys seals it anew, whether it needs it or not, as of when it was fetched."""
    disk.shelf().keep(jwks())
    previous = disk.replace_key()
    disk.now = UnixTime(NOW + 3_600)
    disk.shelf(previous=previous)
    previous.unlink()
    assert disk.shelf().load() == jwks()
    disk.now = UnixTime(NOW + int(LONGEST))
    assert disk.shelf().load() is None


def test_of_neither_key_is_none(disk: Disk) -> None:
    disk.shelf().keep(jwks())
    disk.replace_key()
    assert disk.shelf(previous=disk.replace_key()).load() is None


def test_a_disk_that_takes_nothing_changes_nothing(disk: Disk) -> None:
    disk.shelf().keep(jwks())
    (disk.directory / f"{FILE}.new").mkdir()
    disk.shelf().keep(b"other")
    assert disk.shelf().load() == jwks()


def keys_of(issuer: Issuer, disk: Disk) -> AnswerKeys:
    return AnswerKeys(f"{ISSUER}/jwks", ISSUER, issuer, lambda: issuer.now, disk.shelf())


@pytest.mark.parametrize("away", [Failure.CONNECT, Reply(503), Reply(200, b"application/json", b"{}")])
async def test_a_restart_while_the_issuer_is_away_goes_on_with_what_was_fetched(
    disk: Disk, away: Failure | Reply
) -> None:
    issuer = Issuer()
    assert await keys_of(issuer, disk).refresh()
    issuer.says = away
    restarted = keys_of(issuer, disk)
    assert await restarted.refresh()
    assert restarted.current is not None
    assert restarted.is_kept


async def test_a_set_that_is_newly_fetched_replaces_what_was_kept(disk: Disk) -> None:
    """A key that is published no more is trusted no more, in this process and in the next."""
    issuer, other = Issuer(), jwks(OTHER)
    assert await keys_of(issuer, disk).refresh()
    issuer.says = Failure.CONNECT
    restarted = keys_of(issuer, disk)
    assert await restarted.refresh()
    issuer.says, issuer.now = Reply(200, b"application/json", other), issuer.now + 60
    assert await restarted.refresh()
    assert restarted.current is not None
    assert (restarted.current.kids, restarted.is_kept) == ({OTHER.public.kid}, False)
    assert disk.shelf().load() == other


async def test_at_a_start_what_is_published_now_is_asked_for_first(disk: Disk) -> None:
    issuer, other = Issuer(), jwks(OTHER)
    assert await keys_of(issuer, disk).refresh()
    issuer.says = Reply(200, b"application/json", other)
    restarted = keys_of(issuer, disk)
    await restarted.refresh()
    assert restarted.current is not None
    assert restarted.current.kids == {OTHER.public.kid}


async def test_a_guard_restarted_without_the_issuer_reads_signed_answers(disk: Disk, autojump_clock: MockClock) -> None:
    for issuer_is_there in (True, False):
        stand = Stand(autojump_clock, answers=AnswerForm.SIGNED, shelf=disk.shelf())
        stand.nodes.all(answers_signed())
        stand.nodes.has_issuer = issuer_is_there
        async with stand.guard:
            assert (await stand.guard.check(share())).reason is Reason.CONSENTED


async def test_a_running_guard_asks_for_the_keys_every_ten_minutes(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, answers=AnswerForm.SIGNED)
    stand.nodes.all(answers_signed())
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        await trio.sleep(1_900)
    gaps = [later - sooner for sooner, later in pairwise(stand.nodes.issuer_asked)]
    assert gaps[-2:] == pytest.approx([600, 600])
    assert max(gaps) == pytest.approx(600)
