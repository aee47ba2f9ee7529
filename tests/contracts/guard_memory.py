"""What every guard's memory must do, whatever it is kept in."""

import json

import msgspec
import pytest

from engine.clock import UnixTime, parse_utc
from engine.guard.memory import Memory
from engine.guard.shares import KnownNo, KnownToken
from tests.support.known_tokens import CONSENT, NOW, OTHER_CONSENT, entry, known_consent, known_token

LATER = UnixTime(NOW + 60)


class MemoryContract:
    """Subclasses give `memory`: one that knows nothing yet."""

    def test_what_was_never_heard_of_is_not_known(self, memory: Memory) -> None:
        assert memory.look(known_token().digest) is None

    def test_active_answer_is_known(self, memory: Memory) -> None:
        memory.remember(known_token())
        assert memory.look(known_token().digest) == known_token()

    def test_newer_truth_replaces_an_older_one_in_whatever_order(self, memory: Memory) -> None:
        newer = known_token(as_of=LATER, answered_at=LATER)
        memory.remember(newer)
        memory.remember(known_token())
        assert memory.look(newer.digest) == newer

    def test_higher_version_is_the_newer_truth_whatever_a_node_says_of_its_time(self, memory: Memory) -> None:
        newer = known_token(consents=(known_consent(version=3),))
        memory.remember(newer)
        memory.remember(known_token(as_of=LATER, answered_at=LATER, consents=(known_consent(version=2),)))
        assert memory.look(newer.digest) == newer

    def test_refused_token_stays_refused(self, memory: Memory) -> None:
        memory.remember(known_token())
        memory.refuse(known_token().digest, LATER)
        memory.remember(known_token(as_of=UnixTime(LATER + 60)))
        assert memory.look(known_token().digest) is None

    def test_token_refused_before_its_active_answer_arrives_stays_refused(self, memory: Memory) -> None:
        memory.refuse(known_token().digest, LATER)
        memory.remember(known_token())
        assert memory.look(known_token().digest) is None

    @pytest.mark.parametrize("version", [1, 2, 9])
    def test_pushed_end_wins_whatever_its_version(self, memory: Memory, version: int) -> None:
        memory.remember(known_token(consents=(known_consent(version=2),)))
        memory.end(CONSENT, version, LATER)
        memory.change(CONSENT, 10, None, None)
        memory.remember(known_token(as_of=UnixTime(LATER + 60), consents=(known_consent(version=11),)))
        assert memory.look(known_token().digest) is None

    def test_answer_is_cut_to_what_was_heard_of_a_later_version(self, memory: Memory) -> None:
        shown, cut_short = known_consent(), entry(data_to="2026-06-01T00:00:00Z")
        assert memory.cut(shown) is shown
        memory.change(CONSENT, shown.consent_version, cut_short, None)
        assert memory.cut(shown) is shown
        memory.change(CONSENT, shown.consent_version + 1, cut_short, None)
        cut = memory.cut(shown)
        assert cut is not None
        assert (cut.consent_version, json.loads(cut.entry)["data_to"]) == (2, "2026-06-01T00:00:00Z")
        memory.end(CONSENT, 3, LATER)
        assert memory.cut(shown) is None

    def test_end_before_its_grant_and_any_answer_wins(self, memory: Memory) -> None:
        memory.end(CONSENT, 2, LATER)
        memory.change(CONSENT, 1, entry(), None)
        memory.remember(known_token())
        assert memory.look(known_token().digest) is None

    def test_end_of_one_consent_leaves_the_tokens_others(self, memory: Memory) -> None:
        memory.remember(known_token(consents=(known_consent(), known_consent(OTHER_CONSENT))))
        memory.end(CONSENT, 2, LATER)
        left = memory.look(known_token().digest)
        assert left is not None
        assert [consent.consent_id for consent in left.consents] == [OTHER_CONSENT]

    def test_end_is_heard_of_whether_or_not_the_consent_was_known(self, memory: Memory) -> None:
        memory.remember(known_token(consents=(known_consent(), known_consent(OTHER_CONSENT))))
        assert not memory.has_ended(CONSENT)
        memory.end(CONSENT, 2, LATER)
        memory.end("never-known", 1, LATER)
        assert memory.has_ended(CONSENT)
        assert memory.has_ended("never-known")
        assert not memory.has_ended(OTHER_CONSENT)

    def test_pushed_narrowing_cuts_what_an_answer_showed(self, memory: Memory) -> None:
        memory.remember(known_token())
        memory.change(CONSENT, 2, entry(data_to="2026-06-01T00:00:00Z"), None)
        assert window(memory.look(known_token().digest)) == ("2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z")

    def test_narrowing_heard_of_before_the_answer_cuts_it_too(self, memory: Memory) -> None:
        memory.change(CONSENT, 2, entry(data_to="2026-06-01T00:00:00Z"), None)
        memory.remember(known_token())
        assert window(memory.look(known_token().digest)) == ("2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z")

    def test_answer_of_the_narrowed_version_stands_as_it_came(self, memory: Memory) -> None:
        memory.change(CONSENT, 2, entry(data_to="2026-06-01T00:00:00Z"), None)
        narrow = known_token(consents=(known_consent(version=2, data_to="2026-06-01T00:00:00Z"),))
        memory.remember(narrow)
        assert memory.look(narrow.digest) == narrow

    def test_older_version_changes_nothing(self, memory: Memory) -> None:
        memory.change(CONSENT, 3, entry(), None)
        memory.change(CONSENT, 2, entry(data_to="2026-02-01T00:00:00Z"), None)
        memory.remember(known_token())
        assert window(memory.look(known_token().digest)) == ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")

    def test_nothing_pushed_widens_what_an_answer_showed(self, memory: Memory) -> None:
        memory.remember(known_token())
        expires_at = parse_utc("2030-01-01T00:00:00Z")
        memory.change(
            CONSENT, 2, entry(data_from="2020-01-01T00:00:00Z", data_to="2030-01-01T00:00:00Z"), UnixTime(expires_at)
        )
        left = memory.look(known_token().digest)
        assert left is not None
        assert window(left) == ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")
        assert left.consents[0].expires_at == known_consent().expires_at

    def test_narrowing_that_cannot_be_read_leaves_nothing(self, memory: Memory) -> None:
        memory.remember(known_token())
        memory.change(CONSENT, 2, b'{"data_to":', None)
        assert memory.look(known_token().digest) is None

    def test_tokens_of_a_suspended_atp_are_not_known_until_it_goes_on(self, memory: Memory) -> None:
        memory.remember(known_token())
        memory.suspend("atp-1", 2, suspended=True)
        assert memory.look(known_token().digest) is None
        memory.suspend("atp-1", 1, suspended=False)
        assert memory.look(known_token().digest) is None
        memory.suspend("atp-1", 3, suspended=False)
        assert memory.look(known_token().digest) == known_token()

    def test_a_no_is_told_from_nothing_known(self, memory: Memory) -> None:
        digest = known_token().digest
        assert memory.look_for_no(digest) is None
        memory.remember(known_token())
        assert memory.look_for_no(digest) is None
        memory.refuse(digest, LATER)
        assert memory.look_for_no(digest) == KnownNo(LATER)
        memory.remember(known_token(as_of=UnixTime(LATER + 60)))
        assert memory.look_for_no(digest) == KnownNo(LATER)

    def test_a_refusal_of_a_token_never_known_is_a_no(self, memory: Memory) -> None:
        memory.refuse(known_token().digest, LATER)
        assert memory.look_for_no(known_token().digest) == KnownNo(LATER)

    def test_a_token_is_over_when_all_its_consents_are(self, memory: Memory) -> None:
        token = known_token(consents=(known_consent(), known_consent(consent_id=OTHER_CONSENT)))
        memory.remember(token)
        memory.end(CONSENT, 2, NOW)
        assert memory.look_for_no(token.digest) is None
        memory.end(OTHER_CONSENT, 2, LATER)
        assert memory.look_for_no(token.digest) == KnownNo(LATER)

    def test_a_narrowing_that_cannot_be_read_is_a_doubt_and_no_end(self, memory: Memory) -> None:
        memory.remember(known_token())
        memory.change(CONSENT, 2, b'{"data_to":', None)
        assert memory.look_for_no(known_token().digest) is None

    def test_a_suspended_atp_is_a_no_until_it_goes_on(self, memory: Memory) -> None:
        memory.remember(known_token())
        memory.suspend("atp-1", 2, suspended=True)
        assert memory.look_for_no(known_token().digest) == KnownNo(None)
        memory.suspend("atp-1", 3, suspended=False)
        assert memory.look_for_no(known_token().digest) is None

    def test_a_right_that_rests_is_known_by_the_newest_word(self, memory: Memory) -> None:
        assert memory.rested_at() == 0
        memory.rest(LATER)
        memory.rest(NOW)
        assert memory.rested_at() == LATER
        memory.rest(UnixTime(LATER + 1))
        assert memory.rested_at() == LATER + 1

    def test_a_memory_that_is_the_first_has_lost_nothing(self, memory: Memory) -> None:
        assert memory.lost_until() == 0

    def test_the_newest_truth_of_all_answers_is_known(self, memory: Memory) -> None:
        assert memory.newest() == 0
        memory.remember(known_token(as_of=LATER))
        memory.remember(known_token("other"))
        assert memory.newest() == LATER

    def test_earliest_mark_stands_until_all_is_whole(self, memory: Memory) -> None:
        memory.mark_whole()
        assert memory.missing_since() is None
        memory.mark_missing(LATER)
        memory.mark_missing(NOW)
        memory.mark_missing(LATER)
        assert memory.missing_since() == NOW
        memory.mark_whole()
        assert memory.missing_since() is None

    def test_writes_made_together_are_all_kept(self, memory: Memory) -> None:
        memory.mark_whole()
        with memory.together():
            memory.remember(known_token())
            memory.end(CONSENT, 2, LATER)
            memory.mark_missing(NOW)
        assert memory.look(known_token().digest) is None
        assert memory.missing_since() == NOW

    def test_writes_made_together_are_all_taken_back(self, memory: Memory) -> None:
        memory.mark_whole()
        memory.remember(known_token())
        with pytest.raises(RuntimeError):
            write_and_fail(memory)
        assert memory.look(known_token().digest) == known_token()
        assert memory.missing_since() is None


def write_and_fail(memory: Memory) -> None:
    """Some writes together, and then something else goes wrong."""
    with memory.together():
        memory.end(CONSENT, 2, LATER)
        memory.suspend("atp-1", 2, suspended=True)
        memory.mark_missing(NOW)
        memory.refuse(known_token().digest, LATER)
        raise RuntimeError


def window(known: KnownToken | None) -> tuple[str, str]:
    """Of the first consent."""
    assert known is not None
    read = msgspec.json.decode(known.consents[0].entry)
    return read["data_from"], read["data_to"]
