"""Stored forms only grow: their bytes are pinned, and everything ever written is still read."""

import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from admin.ledger.events import (
    LedgerEvent,
    UnreadableEvent,
    append_of,
    decode,
    decode_personal,
    encode,
    encode_personal,
    event_of,
    feed_record_of,
    subject_of,
    tag_of,
)
from admin.ledger.store import StoredEvent
from engine.consent.records import (
    LIVE_KEY,
    ConsentRecord,
    ParticipantRecord,
    PolicyRecord,
    RestoreRecord,
    TokenRevocation,
    consent_key,
)
from engine.feed.entries import EntryKind, Position
from engine.pusher.streams import StreamRecord
from tests.support.stored_forms import (
    AT,
    CONSENT,
    EARLIER,
    EVENTS,
    ID,
    PARTICIPANT,
    POLICY,
    RECORDS,
    REVOCATION,
    STREAM,
)

FOLDER = Path(__file__).parents[2] / "vectors" / "records"
NEVER_GRANTED = {"consent.requested", "consent.declined", "consent.abandoned"}


def pinned(file: str) -> dict[str, bytes]:
    forms = tomllib.loads((FOLDER / file).read_text())
    return {name: bytes.fromhex(form["hex"]) for name, form in forms.items()}


CURRENT, PAST = pinned("current.toml"), pinned("earlier.toml")
EVERY: dict[str, Any] = RECORDS | EVENTS


@pytest.mark.parametrize("name", EVERY)
def test_a_stored_form_has_the_bytes_that_it_always_had(name: str) -> None:
    value = EVERY[name]
    assert msgspec.msgpack.encode(value) == CURRENT[name]
    assert msgspec.msgpack.decode(CURRENT[name], type=type(value)) == value


@pytest.mark.parametrize("name", PAST)
def test_what_an_earlier_program_wrote_is_still_read(name: str) -> None:
    value = EARLIER[name]
    assert msgspec.msgpack.decode(PAST[name], type=type(value)) == value


@pytest.mark.parametrize("name", EVERY)
def test_what_a_later_program_adds_at_the_end_is_passed_over(name: str) -> None:
    value = EVERY[name]
    grown = msgspec.msgpack.encode([*msgspec.msgpack.decode(CURRENT[name]), "a later field"])
    assert msgspec.msgpack.decode(grown, type=type(value)) == value


def test_every_event_is_pinned_under_its_tag() -> None:
    assert {tag_of(event) for event in EVENTS.values()} == set(EVENTS)
    assert {type(event) for event in EVENTS.values()} == set(get_args(LedgerEvent))
    assert set(CURRENT) == set(EVERY)
    assert set(PAST) == set(EARLIER)


def test_no_event_shares_fields_by_inheritance() -> None:
    assert all(kind.__mro__[1] is msgspec.Struct for kind in get_args(LedgerEvent))


@pytest.mark.parametrize("tag", EVENTS)
def test_events_are_read_by_the_union(tag: str) -> None:
    assert decode(encode(EVENTS[tag])) == EVENTS[tag]
    assert decode(CURRENT[tag]) == EVENTS[tag]


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", b"\x91\xa7unknown", CURRENT["consent.granted"][:-1]])
def test_what_is_no_event_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableEvent):
        decode(body)


def test_a_body_under_another_tag_is_unreadable() -> None:
    body = CURRENT["consent.granted"]
    stored = StoredEvent(Position("i", 1), f"consent:{ID}", "consent.revoked", 1, AT, body, None, None, None, b"", b"")
    with pytest.raises(UnreadableEvent, match="tag"):
        event_of(stored)
    assert event_of(msgspec.structs.replace(stored, tag="consent.granted")) == EVENTS["consent.granted"]


def test_a_personal_part_is_read_back_and_garbage_is_not() -> None:
    personal = RECORDS["ConsentPersonal"]
    stored = encode_personal(personal)  # type: ignore[arg-type] - the table holds it under its base
    assert stored.person_id == "person-77"
    assert decode_personal(stored.plaintext) == personal
    with pytest.raises(UnreadableEvent):
        decode_personal(b"\x90")


@pytest.mark.parametrize("tag", [tag for tag in EVENTS if tag.startswith("consent.")])
def test_engines_get_the_consent_s_record_once_it_was_granted(tag: str) -> None:
    event = EVENTS[tag]
    record = feed_record_of(event)
    assert subject_of(event) == f"consent:{ID}"
    if tag in NEVER_GRANTED:
        assert record is None
    else:
        assert record is not None
        assert (record.kind, record.key) == (EntryKind.CONSENT, consent_key(ID))
        assert msgspec.msgpack.decode(record.record, type=ConsentRecord).dataset_id == CONSENT.dataset_id


@pytest.mark.parametrize("tag", [tag for tag in EVENTS if tag.startswith("participant.")])
def test_engines_get_the_participant_s_record(tag: str) -> None:
    record = feed_record_of(EVENTS[tag])
    assert record is not None
    assert (record.kind, record.key) == (EntryKind.PARTICIPANT, b"edp-1")
    assert msgspec.msgpack.decode(record.record, type=ParticipantRecord) == PARTICIPANT
    assert subject_of(EVENTS[tag]) == "participant:edp-1"


def test_engines_get_revoked_tokens_policy_and_the_news_of_keys() -> None:
    token, policy = feed_record_of(EVENTS["token.revoked"]), feed_record_of(EVENTS["policy.changed"])
    assert token is not None
    assert (token.kind, token.key) == (EntryKind.TOKEN_REVOCATION, b"k" * 16)
    assert msgspec.msgpack.decode(token.record, type=TokenRevocation) == REVOCATION
    assert policy is not None
    assert (policy.kind, policy.key) == (EntryKind.POLICY, b"policy")
    assert msgspec.msgpack.decode(policy.record, type=PolicyRecord) == POLICY
    keys = feed_record_of(EVENTS["issuer.keys_published"])
    assert keys is not None
    assert (keys.kind, keys.key) == (EntryKind.KEYS, b"keys")
    assert b"keys" not in keys.record  # the keys themselves travel over HTTPS


def test_a_stream_s_newest_record_stands_in_the_feed_under_its_id() -> None:
    record = feed_record_of(EVENTS["stream.changed"])
    assert record is not None
    assert (record.kind, record.key) == (EntryKind.RECEIVER, STREAM.stream_id.encode())
    assert msgspec.msgpack.decode(record.record, type=StreamRecord) == STREAM
    assert subject_of(EVENTS["stream.changed"]) == f"stream:{STREAM.stream_id}"


@pytest.mark.parametrize("tag", ["certificate.bound", "certificate.released"])
def test_a_certificate_is_a_subject_and_means_nothing_to_engines(tag: str) -> None:
    assert subject_of(EVENTS[tag]) == "certificate:" + (b"t" * 32).hex()
    assert feed_record_of(EVENTS[tag]) is None


@pytest.mark.parametrize("tag", ["ledger.created", "ledger.restored", "ledger.went_live"])
def test_what_befalls_the_ledger_itself_is_one_subject(tag: str) -> None:
    assert subject_of(EVENTS[tag]) == "ledger"


def test_engines_are_told_that_the_ledger_was_restored_and_that_it_went_live() -> None:
    assert feed_record_of(EVENTS["ledger.created"]) is None
    restored, live = feed_record_of(EVENTS["ledger.restored"]), feed_record_of(EVENTS["ledger.went_live"])
    assert restored is not None
    assert (restored.kind, restored.key) == (EntryKind.RECOVERY, b"0123456789abcdef")
    assert msgspec.msgpack.decode(restored.record, type=RestoreRecord) == RECORDS["RestoreRecord"]
    assert live is not None
    assert (live.kind, live.key) == (EntryKind.RECOVERY, LIVE_KEY)


def test_engines_are_told_which_consents_are_in_doubt_and_not_who_told_so() -> None:
    told = feed_record_of(EVENTS["recovery.told"])
    assert told is not None
    assert (told.kind, told.key) == (EntryKind.DOUBT, consent_key(ID))
    assert b"edp" not in told.record
    assert feed_record_of(EVENTS["recovery.reported"]) is None


@pytest.mark.parametrize("tag", EVENTS)
def test_an_append_carries_subject_tag_version_and_feed(tag: str) -> None:
    append = append_of(EVENTS[tag], 4)
    assert (append.subject, append.tag, append.expected_version) == (subject_of(EVENTS[tag]), tag, 4)
    assert (append.body, append.personal, append.feed) == (CURRENT[tag], None, feed_record_of(EVENTS[tag]))
