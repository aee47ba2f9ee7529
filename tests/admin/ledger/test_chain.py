"""The stored form of hashes, pinned for ever, and what a walk accepts."""

from typing import Any

import msgspec
import pytest

from admin.ledger.chain import NO_HASH, Break, Walk, canonical, hash_of, link, said_by
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


def test_new_incarnation_may_leave_numbers_out_where_it_begins() -> None:
    events = linked(at("a" * 16, 1), at("a" * 16, 2), at("b" * 16, 900, "ledger.restored"), at("b" * 16, 901))
    assert Walk().first_break(events) is None


def test_other_events_may_not_change_the_incarnation() -> None:
    events = linked(at("a" * 16, 1), at("b" * 16, 2))
    assert Walk().first_break(events) == Break(2, "its incarnation is not that of its predecessor")


def test_same_incarnation_may_not_be_restored_over_a_gap() -> None:
    events = linked(at("a" * 16, 1), at("a" * 16, 9, "ledger.restored"))
    assert Walk().first_break(events) == Break(9, "events 2 to 8 are missing before it")


def test_walk_goes_on_over_batches() -> None:
    events, walk = linked(at("a" * 16, 1), at("a" * 16, 2), at("a" * 16, 3)), Walk()
    assert walk.first_break(events[:1]) is None
    assert walk.first_break(events[2:]) == Break(3, "events 2 to 2 are missing before it")
