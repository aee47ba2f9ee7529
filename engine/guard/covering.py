"""Does a consent, as an answer showed it, cover this share? Mode A of the introspection sheet (section 6). Pure.

The rule itself is the engine's (`engine.decision.decide.refusal_of_share`): guard and service never differ. What is
added is the reading of an entry, where nothing that is missing is a wildcard and whatever is not understood may be a
restriction. One whole share lies in one consent: two are never stitched together.
"""

import functools
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.consent.meter_points import problem_with
from engine.consent.records import ClientId, ConsentRecord
from engine.consent.states import State
from engine.decision.decide import current_window, refusal_of_share
from engine.decision.questions import Reason
from engine.decision.questions import Share as Asked
from engine.guard.shares import Share
from engine.tokens.claims import ConsentDetail, Grant
from engine.tokens.grants import parse_grant

_NO_KEY: Final = bytes(32)  # entries are compared by their words: the digests that grants also have are never looked at
_ENTRIES_REMEMBERED: Final = 16_384

_decode = msgspec.json.Decoder(ConsentDetail).decode


class Entry(msgspec.Struct, frozen=True):
    """One entry of `authorization_details`, read."""

    grant: Grant
    record: ConsentRecord


@functools.lru_cache(maxsize=_ENTRIES_REMEMBERED)
def read_entry(raw: bytes) -> Entry | None:
    """One entry's JSON; None: not of our type, a member missing or not known, or a form that is not ours.

    The JSON is to have one meaning only: whoever took it out of an answer has seen to that.
    """
    try:
        grant = parse_grant(_decode(raw), _NO_KEY)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return None
    return Entry(grant, _as_record(grant))


def refusal(share: Share, raw: bytes) -> Reason | None:
    """Why an entry does not cover a share; None = it does. TOKEN: the entry cannot be read."""
    entry = read_entry(raw)
    if entry is None or problem_with(share.mpxn) is not None:
        return Reason.TOKEN
    asked = Asked(share.dataset_id, share.mpxn, share.data_from, share.data_to, share.purpose_code)
    return refusal_of_share(asked, entry.grant, entry.record)


def covers(share: Share, raw: bytes) -> bool:
    """Whether the whole share lies in the entry. Whether its consent still stands is not asked here."""
    return refusal(share, raw) is None


def window(raw: bytes) -> tuple[UnixTime, UnixTime] | None:
    """What an entry allows, half-open; None: it cannot be read."""
    entry = read_entry(raw)
    return None if entry is None else current_window(entry.grant, entry.record)


def _as_record(grant: Grant) -> ConsentRecord:
    """The consent as the entry tells of it: it was cut to what token and consent allow together."""
    return ConsentRecord(
        state=State.ACTIVE,
        consent_version=1,
        atp=ClientId(""),
        dataset_id=grant.detail.dataset_id,
        access_mode=grant.access_mode,
        granted_at=UnixTime(0),
        expires_at=grant.expires_at,
        data_from=grant.data_from,
        data_to=grant.data_to,
        meter_digests=grant.meter_digests,
        edps=(),
        purpose_code=grant.detail.purpose_code,
    )
