"""What the guard's store remembers as decoded: bounded, and never other than what stands on disk."""

from pathlib import Path

import pytest

from engine.clock import UnixTime
from engine.guard.recall import Recent, Unread, weight_of
from engine.guard.rules import KeptToken
from engine.guard.sealed_table import SealedTable
from engine.guard.sealing import Sort
from engine.guard.shares import KnownToken
from engine.guard.store import GuardStore
from tests.support.guard_stores import opened
from tests.support.known_tokens import CONSENT, NOW, OTHER_CONSENT, known_consent, known_token

LATER = UnixTime(NOW + 60)


class Undone(Exception):
    """Something else went wrong inside."""


def write_and_fail(store: GuardStore, known: KnownToken) -> None:
    with store.together():
        store.end(CONSENT, 2, LATER)
        store.suspend(known.client_id, 2, suspended=True)
        store.refuse(known.digest, LATER)
        assert store.has_ended(CONSENT)
        assert store.look(known.digest) is None
        raise Undone


def test_oldest_go_first_and_the_bound_holds() -> None:
    recent: Recent[int] = Recent(16)
    for number in range(100):
        recent.keep(bytes((number,)), number)
        assert len(recent) <= 16
        assert recent.find(bytes((number,))) == number
    assert isinstance(recent.find(b"\x00"), Unread)


def test_weights_count_and_are_given_back() -> None:
    recent: Recent[str] = Recent(10)
    recent.keep(b"a", "large", 9)
    recent.keep(b"a", "small", 1)
    recent.keep(b"b", "large", 9)
    assert (recent.find(b"a"), recent.find(b"b")) == ("small", "large")
    recent.keep(b"c", "too large", 11)
    assert isinstance(recent.find(b"c"), Unread)
    recent.drop(b"b")
    recent.drop(b"b")
    recent.keep(b"d", "all of it", 10)
    assert recent.find(b"d") == "all of it"


def test_nothing_known_is_remembered_too() -> None:
    recent: Recent[int | None] = Recent(1)
    recent.keep(b"a", None)
    assert recent.find(b"a") is None


def test_token_weighs_what_its_answer_and_entries_weigh() -> None:
    light, heavy = known_token(answer=b""), known_token(answer=bytes(5_000))
    assert weight_of(KeptToken(heavy)) - weight_of(KeptToken(light)) == 5_000
    assert weight_of(KeptToken(None)) > 0


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Sort] = []
    get = SealedTable.get

    def counted(table: SealedTable, sort: Sort, name: bytes) -> bytes | None:
        read.append(sort)
        return get(table, sort, name)

    monkeypatch.setattr(SealedTable, "get", counted)
    with opened(tmp_path) as store:
        store.remember(known_token())
        store.flush()
        assert store.look(known_token().digest) == known_token()
        read.clear()
        for _ in range(3):
            assert store.look(known_token().digest) == known_token()
            assert not store.has_ended(CONSENT)
        assert read == []
        store.end(CONSENT, 2, LATER)
        assert store.has_ended(CONSENT)
        assert store.look(known_token().digest) is None
        assert read == [Sort.CONSENT], "what was written is read anew, and nothing else"


def test_what_was_read_inside_and_taken_back_is_not_known(tmp_path: Path) -> None:
    known = known_token()
    with opened(tmp_path) as store:
        store.remember(known)
        with pytest.raises(Undone):
            write_and_fail(store, known)
        assert not store.has_ended(CONSENT)
        assert store.look(known.digest) == known


def test_what_made_room_is_not_known_any_more(tmp_path: Path) -> None:
    first = known_token("first", last_known_until=UnixTime(NOW + 100))
    second = known_token("second", consents=(known_consent(OTHER_CONSENT),))
    with opened(tmp_path, max_tokens=1) as store:
        store.remember(first)
        store.flush()
        assert store.look(first.digest) == first
        store.remember(second)
        store.flush()
        assert store.look(first.digest) is None
        assert store.look(second.digest) == second
