"""The report of fallback shares as the service takes it (`POST /shares/fallback`), made from entries of the log. Pure.

The same shares always give the same body and the same key, so that a report that was sent and not acknowledged is
sent again as it was, also after a restart. No token, meter point or certificate stands in it.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from engine.clock import UnixTime, format_utc
from engine.guard.evidence_chain import BrokenChain, Link, entry_of
from engine.guard.evidence_words import Attempt, ShareEvidence

MAX_SHARES: Final = 100  # in one report
_MAX_ATTEMPTS: Final = 32  # of one outage
_ALL_ATTEMPTS: Final = 800  # of all outages of a report: so that it stays within what the service takes


class Report(msgspec.Struct, frozen=True):
    """What is sent, and of which entries. key: of idempotency."""

    links: tuple[Link, ...]
    body: bytes
    key: str


def report_of(links: Sequence[Link]) -> Report:
    """The report of some shares, MAX_SHARES at most. Raises BrokenChain for an entry that is no share."""
    shares = [(link, _share(link)) for link in links]
    outages: dict[int, list[Attempt]] = {}
    for _, share in shares:
        outages.setdefault(int(share.outage_since), []).extend(share.attempts)
    most = max(1, min(_MAX_ATTEMPTS, _ALL_ATTEMPTS // max(1, len(outages))))
    body = {
        "outages": [
            {"since": _time(since), "attempts": [_attempt(one) for one in _newest(attempts, most)]}
            for since, attempts in outages.items()
        ],
        "shares": [_shown(link, share) for link, share in shares],
    }
    named = hashlib.sha256("\n".join(link.evidence_id for link in links).encode()).digest()
    return Report(tuple(links), msgspec.json.encode(body), f"shares-{_base64(named)}")


def _share(link: Link) -> ShareEvidence:
    entry = entry_of(link.entry)
    if not isinstance(entry, ShareEvidence):
        raise BrokenChain("this entry is not of a share")
    return entry


def _shown(link: Link, share: ShareEvidence) -> dict[str, Any]:
    members = {
        "evidence_id": link.evidence_id,
        "evidence_hash": _base64(link.hash),
        "at": _time(share.at),
        "outage_since": _time(share.outage_since),
        "token_digest": _base64(share.digest),
        "client_id": share.client_id,
        "consent_id": share.consent_id,
        "consent_version": share.consent_version,
        "dataset_id": share.dataset_id,
        "data_from": _time(share.data_from),
        "data_to": _time(share.data_to),
        "answered_at": _time(share.answered_at),
        "as_of": _time(share.as_of),
    }
    return members | ({"share_id": share.share_id} if share.share_id else {})


def _newest(attempts: Iterable[Attempt], most: int) -> list[Attempt]:
    """Each once: shares of one outage tell of the same calls."""
    return sorted(set(attempts), key=lambda attempt: (attempt.at, attempt.address))[-most:]


def _attempt(attempt: Attempt) -> dict[str, Any]:
    made: dict[str, Any] = {
        "address": attempt.address,
        "at": _time(attempt.at),
        "milliseconds": max(0, min(3_600_000, round(attempt.seconds * 1_000))),
        "failure": attempt.failure.value,
    }
    return made | ({"status": attempt.status} if attempt.status else {})


def _time(at: float) -> str:
    return format_utc(UnixTime(int(at)))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
