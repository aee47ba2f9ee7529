"""The stored form of hashes, pinned for ever, and what a walk accepts."""

from typing import Any

import msgspec
import pytest

from admin.ledger.chain import NO_HASH, Break, Walk, canonical, hash_of, link, said_by
from admin.ledger.events import LedgerRestored, encode
from admin.ledger.store import FeedRecord, StoredEvent
from engine.clock import UnixTime
from engine.feed.entries import EntryKind, Position

EVENT = StoredEvent(
    position=Position("0123456789abcdef", 1),
    subject="consent:0b8f5a3e-1f6c-4a57-9f57-2f9a4f2f3c11",
    tag="consent.granted",
    version=1,
    recorded_at=UnixTime(1_800_000_000),
    body=b"\x93\x01\x02\x03",
    person_id="p-1",
    ciphertext=b"sealed",
    feed=FeedRecord(EntryKind.CONSENT, b"key", b"record"),
    previous_hash=NO_HASH,
    hash=b"",
)


def linked(*events: StoredEvent) -> list[StoredEvent]:
    """Give the events hashes that fit."""
    done: list[StoredEvent] = []
    for event in events:
        bare = msgspec.structs.replace(event, previous_hash=done[-1].hash if done else NO_HASH)
        done.append(msgspec.structs.replace(bare, hash=hash_of(bare)))
    return done


def at(incarnation: str, seq: int, tag: str = "consent.granted") -> StoredEvent:
    return msgspec.structs.replace(EVENT, position=Position(incarnation, seq), tag=tag)


def test_canonical_bytes_are_pinned() -> None:
    assert canonical(said_by(EVENT)).hex() == (
        "9db26363732e6c65646765722e6576656e742e3101b030313233343536373839616263646566d92c636f6e73656e743a30623866"
        "356133652d316636632d346135372d396635372d326639613466326633633131af636f6e73656e742e6772616e74656401ce6b49"
        "d200c40493010203a3702d31c4067365616c656401c4036b6579c4067265636f7264"
    )


def test_hash_is_pinned() -> None:
    assert hash_of(EVENT).hex() == "cc0ee2e63c0127eeb10c0091d288c01fa82c7adaa87c0a68eac755eefcad9229"


def test_hash_of_an_event_without_person_and_feed_is_pinned() -> None:
    bare = msgspec.structs.replace(EVENT, person_id=None, ciphertext=None, feed=None)
    assert hash_of(bare).hex() == "ade8e54b3c33a2491ef81d60496992170bc4b1f2c981257f4c429f0723a0b9c6"


@pytest.mark.parametrize(
    "change",
    [
        {"position": Position("0123456789abcdef", 2)},
        {"position": Position("0123456789abcdee", 1)},
        {"subject": "consent:another"},
        {"tag": "consent.revoked"},
        {"version": 2},
        {"recorded_at": 1},
        {"body": b""},
        {"person_id": None},
        {"ciphertext": None},
        {"feed": None},
        {"feed": FeedRecord(EntryKind.RECEIVER, b"key", b"record")},
        {"feed": FeedRecord(EntryKind.CONSENT, b"keyr", b"ecord")},
        {"previous_hash": bytes(31) + b"\x01"},
    ],
)
def test_hash_covers_every_field(change: dict[str, Any]) -> None:
    assert hash_of(msgspec.structs.replace(EVENT, **change)) != hash_of(EVENT)


def test_link_and_hash_of_agree() -> None:
    assert link(EVENT.previous_hash, said_by(EVENT)) == hash_of(EVENT)


def restored(seq: int, incarnation: str = "b" * 16, **changes: Any) -> StoredEvent:
    """The event that restores the two events before it, with what it says changed."""
    said = LedgerRestored("a" * 16, 2, 800, UnixTime(1_800_000_000), UnixTime(1_800_000_060), "c" * 16)
    body = encode(msgspec.structs.replace(said, **changes))
    return msgspec.structs.replace(at(incarnation, seq, "ledger.restored"), body=body)


KEPT = (at("a" * 16, 1), at("a" * 16, 2))


@pytest.mark.parametrize("seq", [801, 900, 2**62])
def test_new_incarnation_may_leave_numbers_out_where_it_begins(seq: int) -> None:
    assert Walk().first_break(linked(*KEPT, restored(seq), at("b" * 16, seq + 1))) is None


def test_nothing_may_be_left_out_behind_a_restore() -> None:
    events = linked(*KEPT, restored(900), at("b" * 16, 902))
    assert Walk().first_break(events) == Break(902, "events 901 to 901 are missing before it")


@pytest.mark.parametrize(
    "event",
    [
        restored(900, previous_incarnation="d" * 16),
        restored(900, restored_seq=1),  # event 2 was slipped in behind it
        restored(900, restored_seq=3),  # event 3 was taken out
        restored(900, reported_seq=1),
        restored(900, reported_seq=900),  # its own number had been told before
        restored(3),
        restored(900, "a" * 16),
        at("b" * 16, 900, "ledger.restored"),  # with a body of another kind
    ],
)
def test_restore_that_does_not_say_what_it_follows_is_a_break(event: StoredEvent) -> None:
    what = "it says that the ledger was restored, and does not follow on what it says was kept"
    assert Walk().first_break(linked(*KEPT, event)) == Break(event.position.seq, what)


def test_ledger_does_not_begin_with_a_restore() -> None:
    event = restored(900, previous_incarnation="", restored_seq=0)
    assert Walk().first_break(linked(restored(900))) is not None
    assert Walk().first_break(linked(event)) is not None


def test_other_events_may_not_change_the_incarnation() -> None:
    events = linked(at("a" * 16, 1), at("b" * 16, 2))
    assert Walk().first_break(events) == Break(2, "its incarnation is not that of its predecessor")


def test_walk_goes_on_over_batches() -> None:
    events, walk = linked(at("a" * 16, 1), at("a" * 16, 2), at("a" * 16, 3)), Walk()
    assert walk.first_break(events[:1]) is None
    assert walk.first_break(events[2:]) == Break(3, "events 2 to 2 are missing before it")
