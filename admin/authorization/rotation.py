"""When the issuer's key set may change: so that no good token ever meets an engine that does not know its key.

Three steps, each a new list of key files, the signing one first:

    old              the old key signs
    old, new         the new one is published; engines and EDPs learn it
    new, old         after `LEAD` the new one signs; the old one still verifies
    new              when the last token of the old key has ended, it leaves

The rule needs only the publication that stands: a key that is not first in it stopped signing at its time at the
latest. After a compromise nobody waits: the key is dropped at once, and its tokens with it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from admin.authorization.metadata import CACHE_SECONDS
from engine.clock import Seconds, UnixTime, format_utc
from engine.errors import Fault, Kind
from engine.tokens.keys import JwkSet
from engine.tokens.verify import CLOCK_SKEW

LEAD: Final = CACHE_SECONDS  # EDPs may hold a key set that long; engines learn of a key within seconds


class RotationTooEarly(Fault):
    """The change would refuse good tokens; the text says from when on it will not."""

    kind = Kind.CONFLICT


class Publication(msgspec.Struct, frozen=True):
    """A published key set. kids: the signing key's first; at: since when it stands."""

    at: UnixTime
    kids: tuple[str, ...]


def publication_of(at: UnixTime, jwks: bytes) -> Publication:
    """A publication as the ledger holds it (`IssuerKeysPublished`). Raises ValueError: not a key set."""
    try:
        return Publication(at, tuple(jwk.kid for jwk in msgspec.json.decode(jwks, type=JwkSet).keys))
    except msgspec.MsgspecError as error:
        raise ValueError("not a key set") from error


def check_rotation(standing: Publication | None, kids: Sequence[str], lifetime: Seconds, now: UnixTime) -> None:
    """Raise RotationTooEarly unless `kids` may follow what stands. lifetime: of the issuer's tokens, seconds.

    None: nothing was published yet, so nobody holds a token. Raises ValueError when no key would sign.
    """
    if not kids:
        raise ValueError("somebody must sign")
    if standing is None:
        return
    _check_signing(standing, kids[0], now)
    for gone in set(standing.kids) - set(kids):
        _check_dropped(standing, gone, lifetime, now)


def _check_signing(standing: Publication, kid: str, now: UnixTime) -> None:
    if kid == standing.kids[0]:
        return
    if kid not in standing.kids:
        raise RotationTooEarly(f"key {kid} must be published, after the one that signs, before it signs itself")
    _wait_until(standing.at + LEAD, now, f"key {kid} may sign")


def _check_dropped(standing: Publication, kid: str, lifetime: Seconds, now: UnixTime) -> None:
    if kid == standing.kids[0]:
        raise RotationTooEarly(f"key {kid} still signs: put another before it first")
    _wait_until(standing.at + int(lifetime) + CLOCK_SKEW, now, f"key {kid} may leave")


def _wait_until(allowed: int, now: UnixTime, what: str) -> None:
    if now < allowed:
        raise RotationTooEarly(f"{what} from {format_utc(UnixTime(allowed))} on")
