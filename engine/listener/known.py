"""What a worker has worked out already and may say again, as long as nothing it rests on has changed.

Deciding is a pure function; with the same inputs it gives the same answer. The inputs are the token, the replica's
records, the freshness and the time. Each request looks at the replica in a transaction of its own: while its version is
the same, no record has changed. A yes stays a yes until the earliest end that it shows, and only a yes in `current` is
said again; its last members, which tell how fresh it is, are written anew each moment. Everything else, and every
doubt, goes the long way.
"""

from collections import OrderedDict
from typing import Final, Protocol

import msgspec

from engine.clock import BootTime, UnixTime
from engine.consent.records import ClientId, ParticipantRecord, Thumbprint
from engine.decision.answers import fresh_part, render, stable_part
from engine.decision.freshness import MAX_SILENCE, Freshness, FreshnessState, freshness_of
from engine.decision.questions import Active, Records
from engine.listener.tls import Peer
from engine.replica.reader import Moment, View
from engine.tokens.claims import VerifiedToken

MAX_CALLERS: Final = 10_000  # thumbprints; far above how many participants there are


class KnownCaller(msgspec.Struct):
    """A caller that may call until `until`, by its certificate."""

    version: int
    record: ParticipantRecord
    until: UnixTime


class Ground(Protocol):
    """What was worked out about a token rests on this. values: of its consents, as the replica stored them."""

    token: VerifiedToken
    records: Records
    values: tuple[bytes | None, ...]


class KnownYes(msgspec.Struct):
    """A yes to `caller` about the whole token, and the records it came from."""

    version: int
    caller: ClientId
    token: VerifiedToken
    records: Records
    since: UnixTime  # a clock that goes back further may find the token not valid yet
    until: UnixTime
    consent_ends_at: UnixTime
    shown: int  # consents
    values: tuple[bytes | None, ...]  # of the token's consents, as the replica stored them
    stable: bytes


def still_holds(yes: Ground, view: View) -> bool:
    """Whether what a yes rests on stands in this view as it did, whatever else has changed; the caller is known.

    Participants and policy are decoded once for the same bytes, so the same object says the same bytes.
    """
    token, records = yes.token, yes.records
    return (
        view.moment.policy is records.policy
        and view.participant(token.claims.client_id) is records.atp
        and not view.token_revoked(token.revocation_key)
        and all(view.consent_value(grant.key) == value for grant, value in zip(token.grants, yes.values, strict=True))
    )


class Known:
    """One per worker. size: how many answers are kept, about 2 KB each; the one that came first goes first."""

    def __init__(self, size: int, boot_id: str) -> None:
        self._size = size
        self._boot_id = boot_id
        self._yes: OrderedDict[bytes, KnownYes] = OrderedDict()
        self._callers: dict[Thumbprint, KnownCaller] = {}
        self._moment: Moment | None = None
        self._now = UnixTime(-1)
        self._from = self._until = BootTime(0.0)
        self._freshness: Freshness | None = None
        self._fresh = b""
        self.yes = self._yes.get  # by the token's digest
        self.caller = self._callers.get

    def freshness(self, moment: Moment, now: UnixTime, boot: BootTime) -> Freshness | None:
        """The freshness of this moment, if it is `current`; worked out once as long as it cannot have changed."""
        if moment is self._moment and now == self._now and self._from <= boot < self._until:
            return self._freshness
        bound = moment.bound
        freshness = freshness_of(bound, moment.policy, boot_id=self._boot_id, boot=boot, now=now)
        if bound is None or freshness.state is not FreshnessState.CURRENT:
            self._moment = None
            return None
        age = boot - bound.fresh_until + MAX_SILENCE
        # `last_known_until` is cut to whole seconds; within this second it changes when the age crosses one of them
        left = (now + moment.policy.outage_cap - age) % 1.0
        self._moment, self._now, self._freshness = moment, now, freshness
        self._from, self._until = boot, BootTime(min(bound.fresh_until, boot + left))
        self._fresh = fresh_part(freshness, freshness.last_known_until)
        return freshness

    def body(self, known: KnownYes, freshness: Freshness) -> bytes:
        """The plain answer. freshness: as `freshness` gave it just now."""
        if known.consent_ends_at >= freshness.last_known_until:
            return known.stable + self._fresh
        return known.stable + fresh_part(freshness, known.consent_ends_at)

    def learn_caller(self, peer: Peer, version: int, record: ParticipantRecord) -> None:
        """A caller was let in by its certificate, which `Callers.identify` has checked."""
        registered = next(held for held in record.certificates if held.thumbprint == peer.thumbprint)
        if len(self._callers) >= MAX_CALLERS:
            self._callers.clear()
        until = min(registered.not_after, peer.not_after)
        self._callers[peer.thumbprint] = KnownCaller(version, record, until)

    def learn(self, answer: Active, records: Records, view: View, now: UnixTime) -> bytes:
        """A yes about a whole token, decided from these records alone, read in this view. Returns its body."""
        body, token = render(answer), answer.token
        stable = stable_part(body, answer)
        if stable is None:
            return body
        values = tuple([view.consent_value(grant.key) for grant in token.grants])
        ends, shown, version = (answer.expires_at, answer.consent_ends_at), len(answer.grants), view.moment.version
        known = KnownYes(version, token.claims.aud, token, records, now, *ends, shown, values, stable)
        self._yes[token.digest] = known
        if len(self._yes) > self._size:
            self._yes.popitem(last=False)
        return body
