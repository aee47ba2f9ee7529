"""What a guard still knows when it has heard several things, in whatever order they came. Pure.

What is kept of a token, a consent and an ATP, and how each word changes it. A word changes nothing where the function
for it returns None. Whatever is in doubt narrows: nothing here ever makes more of an answer than the answer said.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from engine.clock import UnixTime, format_utc, parse_utc
from engine.guard.shares import KnownConsent, KnownNo, KnownToken

# Members of a pushed entry that must be the answer's own, where both have them.
_EQUAL: Final = ("type", "consent_id", "dataset_id", "access_mode", "purpose_code")
_TIMES: Final = ("data_from", "data_to", "consent_expires_at")
_HARMLESS: Final = ("actions", "locations", "granted_at", "schema_version")
_UNDERSTOOD: Final = frozenset((*_EQUAL, *_TIMES, *_HARMLESS))


class KeptToken(msgspec.Struct, frozen=True, array_like=True):
    """The newest active answer about a token, or that it was refused: then it stays so. Stored: see `shares`."""

    known: KnownToken | None
    refused_at: UnixTime = UnixTime(0)  # what refused it was true then


class KeptConsent(msgspec.Struct, frozen=True, array_like=True):
    """What was pushed, polled or listed about a consent. entry, expires_at: of the highest version heard of."""

    version: int
    ended: bool
    at: UnixTime = UnixTime(0)  # when it ended
    entry: bytes | None = None
    expires_at: UnixTime | None = None


class KeptParty(msgspec.Struct, frozen=True, array_like=True):
    """Whether an ATP was stopped as a whole."""

    version: int
    suspended: bool


def remembered(kept: KeptToken | None, known: KnownToken, floor: UnixTime) -> KeptToken | None:
    """After an active answer. floor: what was true then or before may have ended since, and that word is lost."""
    if known.as_of <= floor or (kept is not None and (kept.known is None or is_older(known, kept.known))):
        return None
    return KeptToken(known)


def refused(kept: KeptToken | None, as_of: UnixTime) -> KeptToken | None:
    """After an inactive answer, which replaces an active one and stays."""
    if kept is not None and kept.known is None and kept.refused_at >= as_of:
        return None
    return KeptToken(None, as_of)


def ended(kept: KeptConsent | None, version: int, at: UnixTime) -> KeptConsent | None:
    """After an end, which no version undoes."""
    if kept is not None and kept.ended and kept.version >= version:
        return None
    return KeptConsent(max(version, 0 if kept is None else kept.version), ended=True, at=at)


def changed(
    kept: KeptConsent | None, version: int, entry: bytes | None, expires_at: UnixTime | None
) -> KeptConsent | None:
    """After a grant, a renewal or a narrowing; nothing where an end, or this version, is known."""
    if kept is not None and (kept.ended or kept.version >= version):
        return None
    return KeptConsent(version, ended=False, entry=entry, expires_at=expires_at)


def suspended(kept: KeptParty | None, version: int, is_suspended: bool) -> KeptParty | None:
    """After an ATP was stopped, or may go on."""
    if kept is not None and kept.version >= version:
        return None
    return KeptParty(version, is_suspended)


def is_older(answer: KnownToken, than: KnownToken) -> bool:
    """Whether an answer rests on an older truth than another about the same token.

    A consent's version orders answers best; times decide where no version does, as they are whole seconds of nodes.
    """
    versions = {consent.consent_id: consent.consent_version for consent in than.consents}
    shared = [(c.consent_version, versions[c.consent_id]) for c in answer.consents if c.consent_id in versions]
    if any(own != other for own, other in shared):
        return any(own < other for own, other in shared)
    return (answer.as_of, answer.answered_at) < (than.as_of, than.answered_at)


def shows_less(new: KnownToken, old: KnownToken) -> bool:
    """Whether losing the newer answer would leave more known than it said: other content, or less time."""
    is_shorter = new.last_known_until < old.last_known_until or new.token_expires_at < old.token_expires_at
    is_other = new.consents != old.consents or new.client_id != old.client_id or new.thumbprint != old.thumbprint
    return is_shorter or is_other


def in_force(
    known: KnownToken, consent: Callable[[str], KeptConsent | None], party: KeptParty | None
) -> KnownToken | None:
    """What is left of an answer after all that was heard; None: nothing."""
    if party is not None and party.suspended:
        return None
    left: list[KnownConsent] = []
    is_cut = False
    for shown in known.consents:
        heard = consent(shown.consent_id)
        one = shown if heard is None else narrowed(shown, heard)  # nearly always nothing was heard
        is_cut = is_cut or one is not shown
        if one is not None:
            left.append(one)
    if not left:
        return None
    return known if not is_cut else msgspec.structs.replace(known, consents=tuple(left))


def denied(
    kept: KeptToken, consent: Callable[[str], KeptConsent | None], party: Callable[[str], KeptParty | None]
) -> KnownNo | None:
    """Whether all that was heard says no to a token; None: not for sure. What cannot be read is a doubt and no end."""
    if kept.known is None:
        return KnownNo(kept.refused_at)
    stopped = party(kept.known.client_id)
    if stopped is not None and stopped.suspended:
        return KnownNo(None)
    ends = [heard.at for shown in kept.known.consents if (heard := consent(shown.consent_id)) and heard.ended]
    return KnownNo(max(ends)) if ends and len(ends) == len(kept.known.consents) else None


def narrowed(shown: KnownConsent, heard: KeptConsent | None) -> KnownConsent | None:
    """A consent as an answer showed it, cut to what was heard of a later version; None: nothing of it is left."""
    if heard is None or (not heard.ended and heard.version <= shown.consent_version):
        return shown
    if heard.ended:
        return None
    entry = shown.entry if heard.entry is None else _intersection(shown.entry, heard.entry)
    if entry is None:
        return None
    expires_at = shown.expires_at if heard.expires_at is None else min(shown.expires_at, heard.expires_at)
    return msgspec.structs.replace(shown, consent_version=heard.version, expires_at=expires_at, entry=entry)


def _intersection(shown: bytes, heard: bytes) -> bytes | None:
    """The answer's entry within what the pushed one allows. A pushed member that is not understood may restrict."""
    try:
        own = msgspec.json.decode(shown, type=dict[str, Any])
        pushed = msgspec.json.decode(heard, type=dict[str, Any])
        if not pushed.keys() <= _UNDERSTOOD or any(_differs(own, pushed, name) for name in _EQUAL):
            return None
        cut = own | _times_within(own, pushed)
        actions = [action for action in own.get("actions", ["read"]) if action in pushed.get("actions", ["read"])]
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError):
        return None
    if not actions or ("data_to" in cut and parse_utc(cut["data_from"]) >= parse_utc(cut["data_to"])):
        return None
    if actions != own.get("actions", ["read"]):
        cut["actions"] = actions
    return shown if cut == own else msgspec.json.encode(cut)


def _differs(own: dict[str, Any], pushed: dict[str, Any], name: str) -> bool:
    return name in pushed and pushed[name] != own.get(name)


def _times_within(own: dict[str, Any], pushed: dict[str, Any]) -> dict[str, str]:
    """The later begin and the earlier ends. Raises KeyError, TypeError or ValueError where one cannot be read."""
    times = {"data_from": max(parse_utc(own["data_from"]), parse_utc(pushed.get("data_from", own["data_from"])))}
    for name in ("data_to", "consent_expires_at"):
        ends = [parse_utc(entry[name]) for entry in (own, pushed) if entry.get(name) is not None]
        if ends:
            times[name] = min(ends)
    return {name: format_utc(at) for name, at in times.items()}
