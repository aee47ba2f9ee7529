"""From the details a token carries to what decisions compare with: times as numbers, meter points as digests.

Parsed once, when the signature was verified; every later request for the same token finds it in the memo. An ATP gets
a new token every few minutes, and the details in it are the same bytes as in the one before: `KnownDetails` keeps
what they were read as.
"""

import re
import sys
from collections import OrderedDict
from typing import Final

import msgspec

from engine.clock import UnixTime, parse_utc
from engine.consent.energy_consent import TYPE
from engine.consent.meter_points import meter_digest, problem_with
from engine.consent.records import AccessMode, ConsentKey
from engine.tokens.claims import ConsentDetail, Grant

_CONSENT_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MODES: Final = {mode.name.lower(): mode for mode in AccessMode}
_ACTIONS: Final = ("read",)


def consent_key(consent_id: str) -> ConsentKey:
    """The 16 bytes of a consent id. Raises ValueError unless it is a lower-case UUIDv4 (RFC 9562 section 5.4)."""
    if not _CONSENT_ID.fullmatch(consent_id):
        raise ValueError("not a lower-case UUIDv4")
    return ConsentKey(bytes.fromhex(consent_id.replace("-", "")))


def parse_grant(detail: ConsentDetail, meter_key: bytes) -> Grant:
    """Read one entry. Raises ValueError: another type, a bad form, an empty window, or actions that are not ours."""
    if detail.type != TYPE or detail.actions != _ACTIONS or detail.access_mode not in _MODES:
        raise ValueError("not an energy consent of this version")
    key = consent_key(detail.consent_id)
    _check_meter_points(detail.meter_points)
    expires, start, end = _times(detail)
    digests = tuple([meter_digest(meter_key, key, point) for point in detail.meter_points])
    # Words that many tokens repeat are kept once: a worker remembers tokens by the ten thousand.
    detail = msgspec.structs.replace(
        detail, type=TYPE, dataset_id=sys.intern(detail.dataset_id), access_mode=sys.intern(detail.access_mode)
    )
    return Grant(detail, key, _MODES[detail.access_mode], expires, start, end, digests)


def parse_grants(details: tuple[ConsentDetail, ...], meter_key: bytes) -> tuple[Grant, ...]:
    """Read all entries; one bad entry spoils the token. Raises ValueError, also for a consent named twice."""
    grants = tuple([parse_grant(detail, meter_key) for detail in details])
    if len(grants) > 1 and len({grant.key for grant in grants}) != len(grants):
        raise ValueError("a consent is named twice")
    return grants


class KnownDetails:
    """What details mean that stood in verified tokens, by their bytes: at most `size`, the first to come goes first.

    Only what follows from the bytes alone is kept, and only of details that the issuer has signed.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._grants: OrderedDict[bytes, tuple[Grant, ...]] = OrderedDict()
        self.grants = self._grants.get  # by the bytes of the array; None: not known

    def keep(self, written: bytes, grants: tuple[Grant, ...]) -> None:
        """Remember what these bytes were read as."""
        self._grants[written] = grants
        if len(self._grants) > self._size:
            self._grants.popitem(last=False)


def _check_meter_points(points: tuple[str, ...]) -> None:
    if len(points) > 1 and len(set(points)) != len(points):
        raise ValueError("a meter point is named twice")
    for point in points:
        if (problem := problem_with(point)) is not None:
            raise ValueError(problem)


def _times(detail: ConsentDetail) -> tuple[UnixTime, UnixTime, UnixTime | None]:
    expires, start = parse_utc(detail.consent_expires_at), parse_utc(detail.data_from)
    end = None if detail.data_to is None else parse_utc(detail.data_to)
    if start >= (expires if end is None else end):
        raise ValueError("the window is empty")
    return expires, start, end
