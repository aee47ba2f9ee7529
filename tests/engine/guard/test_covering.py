"""Mode A against mode B: the guard's comparison of an answer's entries and the service's own decision agree."""

import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from engine.clock import UnixTime, format_utc
from engine.consent.energy_consent import TYPE
from engine.consent.meter_points import meter_digest
from engine.consent.records import (
    AccessMode,
    ClientId,
    ConsentRecord,
    ParticipantRecord,
    PolicyRecord,
    Role,
)
from engine.consent.states import State
from engine.decision.answers import active_answer
from engine.decision.decide import decide
from engine.decision.freshness import Freshness, FreshnessState
from engine.decision.questions import Active, Ask, ClaimResult, Records
from engine.decision.questions import Share as Asked
from engine.guard.covering import covers, refusal, window
from engine.guard.shares import Share
from engine.tokens.claims import AccessToken, Confirmation, ConsentDetail, VerifiedToken
from engine.tokens.grants import parse_grants
from tests.support.guard_words import DATASETS, DAY, NOW, POINTS, entry, share

METER_KEY = bytes(range(32))
EDP, ATP = ClientId("edp-1"), ClientId("atp-1")
FRESH = Freshness(FreshnessState.CURRENT, NOW, UnixTime(NOW + DAY))

often_first = st.integers(0, 9).map(lambda n: DATASETS[n // 9])
instants = st.integers(-6, 6).map(lambda days: UnixTime(NOW + days * DAY // 2))
lengths = st.integers(1, 12).map(lambda halves: halves * DAY // 2)
codes = st.sampled_from([None, "switching", "advice"])


@st.composite
def granted(draw: st.DrawFn) -> tuple[ConsentDetail, ConsentRecord]:
    """A consent as a token has it and as it stands, which may have been cut or renewed since."""
    points = tuple(draw(st.lists(st.sampled_from(POINTS), min_size=2, max_size=4, unique=True)))
    start, code, is_open = draw(instants), draw(codes), draw(st.booleans())
    expires = UnixTime(start + draw(lengths)) if is_open else draw(instants)
    end = None if is_open else UnixTime(start + draw(lengths))
    consent_id = str(uuid.UUID(int=draw(st.integers(0, 2**64)), version=4))
    dataset = draw(often_first)
    detail = ConsentDetail(
        TYPE, consent_id, dataset, "enduring", format_utc(expires), format_utc(start), points,  # type: ignore[arg-type] # text
        None if end is None else format_utc(end), purpose_code=code,
    )  # fmt: skip
    key = uuid.UUID(consent_id).bytes
    start, expires, end = draw(
        st.one_of(
            st.just((UnixTime(NOW - 9 * DAY), UnixTime(NOW + 9 * DAY), None)),
            st.tuples(instants, instants, st.one_of(st.none(), instants)),
        )
    )
    record = ConsentRecord(
        draw(st.sampled_from([State.ACTIVE, State.ACTIVE, State.REVOKED])), 3, ATP, dataset, AccessMode.ENDURING,
        UnixTime(NOW - DAY), expires, start, end,
        tuple(meter_digest(METER_KEY, key, point) for point in points), (EDP,), code,  # type: ignore[arg-type] # bytes
    )  # fmt: skip
    return detail, record


shares = st.builds(
    lambda dataset, mpxn, start, length, code: share(
        dataset_id=dataset, mpxn=mpxn, data_from=start, data_to=UnixTime(start + length), purpose_code=code
    ),
    often_first, st.sampled_from(POINTS[:2]), instants, st.just(DAY // 2), codes,
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(granted(), min_size=1, max_size=3, unique_by=lambda pair: pair[0].consent_id), shares)
def test_the_comparer_says_of_an_answers_entries_what_the_service_says_of_the_share(
    consents: list[tuple[ConsentDetail, ConsentRecord]], asked: Share
) -> None:
    details = tuple(detail for detail, _ in consents)
    claims = AccessToken("i", EDP, ATP, "s", "j", NOW - 60, NOW + 60, Confirmation("x" * 43), details)
    token = VerifiedToken(claims, "kid", bytes(32), bytes(16), parse_grants(details, METER_KEY))
    records = Records(
        ParticipantRecord(EDP, Role.EDP, False, ()), ParticipantRecord(ATP, Role.ATP, False, ()),  # noqa: FBT003 - not suspended
        tuple(record for _, record in consents), False, PolicyRecord(),  # noqa: FBT003 - not revoked
    )  # fmt: skip
    question = Asked(asked.dataset_id, asked.mpxn, asked.data_from, asked.data_to, asked.purpose_code)
    by_service = isinstance(decide(Ask(EDP, question), token, records, FRESH, NOW), Active)
    shown = decide(Ask(EDP), token, records, FRESH, NOW)
    entries = active_answer(shown).authorization_details if isinstance(shown, Active) else ()
    by_guard = any(covers(asked, msgspec.json.encode(detail)) for detail in entries)
    event(f"active: {by_service}")
    assert by_guard is by_service
    assert records.claim is ClaimResult.UNASKED


def test_a_window_is_half_open() -> None:
    raw = entry(data_to=format_utc(NOW))
    assert covers(share(data_to=NOW), raw)
    assert not covers(share(data_to=UnixTime(NOW + 1)), raw)
    assert covers(share(data_from=UnixTime(NOW - 2 * DAY)), raw)
    assert not covers(share(data_from=UnixTime(NOW - 2 * DAY - 1)), raw)
    assert not covers(share(data_from=NOW, data_to=NOW), raw)
    assert window(raw) == (NOW - 2 * DAY, NOW)


def test_a_missing_end_is_open_to_expiry() -> None:
    assert covers(share(data_to=UnixTime(NOW + DAY)), entry())
    assert not covers(share(data_to=UnixTime(NOW + DAY + 1)), entry())


@pytest.mark.parametrize(
    "change",
    [
        {"type": "https://ccs.example/rar/energy-consent/v2"},
        {"limit": 5},  # unknown: may be a restriction
        {"meter_points": None},
        {"meter_points": []},
        {"data_from": None},
        {"consent_expires_at": None},
        {"dataset_id": None},
        {"dataset_id": "HH-electricity-import"},
        {"access_mode": "forever"},
        {"actions": ["write"]},
        {"actions": ["read", "write"]},
        {"actions": []},
        {"data_from": "2026-11-01T00:00:00+00:00"},
        {"meter_points": ["mpan:1000000000013"]},
        {"consent_id": "not-a-uuid"},
    ],
)
def test_what_is_missing_or_not_understood_covers_nothing(change: dict[str, Any]) -> None:
    assert covers(share(), entry())
    assert not covers(share(), entry(**change))


def test_missing_actions_mean_read() -> None:
    assert covers(share(), entry(actions=None))


def test_a_purpose_that_the_entry_does_not_name_is_not_granted() -> None:
    assert not covers(share(purpose_code="advice"), entry())
    assert covers(share(purpose_code="advice"), entry(purpose_code="advice"))
    assert covers(share(), entry(purpose_code="advice"))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 10_000])
def test_what_is_no_entry_covers_nothing(raw: bytes) -> None:
    assert refusal(share(), raw) is not None


@pytest.mark.parametrize("mpxn", ["1000000000012", "mpan:1000000000013", "mpan:١٠٠٠٠٠٠٠٠٠٠١٢", ""])
def test_what_is_no_meter_point_is_never_covered(mpxn: str) -> None:
    assert not covers(share(mpxn=mpxn), entry())
