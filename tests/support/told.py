"""The service as a guard's events part sees it, in memory: a small ledger that tells one EDP, really signed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from admin.ledger.facts import party_version
from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import ConsentId, Role
from engine.consent.states import ENDED, State
from engine.errors import Fault
from engine.events.facts import Change, ConsentFact, Fact, PartyFact, StreamFact, VerificationFact
from engine.events.sets import CheckpointMember, event_claims, event_jti, heartbeat_claims, wire_state
from engine.events.signing import PemEventSigner
from engine.events.verification import RefusedEvent
from engine.guard.transmitter import (
    Changes,
    ListedConsent,
    ListedParty,
    NoSuchStream,
    Page,
    Polled,
    Stream,
    TooManyCalls,
    TooOld,
)
from tests.support.events import ATP, EDP, ISSUER, NOW, consent_fact, jwks, party_fact, signer

POLL_URL = "https://ccs.example/ssf/poll/p"


class HandClock:
    """`engine.clock.Clock` that a test moves."""

    def __init__(self, wall: int = NOW) -> None:
        self.wall = float(wall)
        self.booted = 1_000.0

    def now(self) -> UnixTime:
        return UnixTime(int(self.wall))

    def boot(self) -> BootTime:
        return BootTime(self.booted)

    def forward(self, seconds: float) -> None:
        self.wall += seconds
        self.booted += seconds


def consent_id(number: int) -> ConsentId:
    return ConsentId(f"7f3c1b1e-5a0e-4a55-9a53-{number:012x}")


class Told(msgspec.Struct, frozen=True):
    """One event that went, or should have gone, to the EDP."""

    seq: int
    jti: str
    compact: bytes
    fact: Fact


class TellingService:
    """A ledger for one EDP, and `engine.guard.transmitter.Transmitter` on it.

    history: all events. horizon: changes before it are not listed any more. fails: raised by every call, if set.
    """

    def __init__(self, page: int = 3) -> None:
        self.history: list[Told] = []
        self.signer: PemEventSigner = signer()
        self.keys: bytes = jwks(signer())
        self.unacknowledged: dict[str, bytes] = {}
        self.refused: dict[str, str] = {}
        self.horizon = 0
        self.issuer = ISSUER
        self.incarnation = "0123456789abcdef"
        self.fails: Fault | None = None
        self.calls: list[str] = []
        self.made: dict[str, Stream] = {}
        self.confirmed: list[tuple[str, str]] = []
        self.verified: list[tuple[str, str | None]] = []
        self.push_status = "paused"
        self.now: Callable[[], float] | None = None  # where it is set, verifications are limited as the service does it
        self._challenged_at = self._verified_at = float("-inf")
        self.before_poll: Callable[[], None] = lambda: None
        self._page = page
        self._position = 0
        self.restored_at = 0
        self.restores: list[tuple[int, int]] = []  # up to where each kept, and where it began anew
        self.checkpoint: CheckpointMember | None = None
        self._versions: dict[str, int] = {}
        self._draws = 0

    @property
    def last_seq(self) -> int:
        return self.history[-1].seq if self.history else 0

    def change(self, number: int, change: Change, **members: Any) -> Told:
        """One change of a consent. Positions have gaps."""
        name = consent_id(number)
        version = self._versions[name] = max(self._versions.get(name, 0) + 1, self.restored_at)
        detail = {"dataset_id": "d", "consent_id": name}
        return self._tell(consent_fact(change, version, consent_id=name, authorization_details=(detail,), **members))

    def party(self, *, suspended: bool) -> Told:
        return self._tell(party_fact(party_version(self._next_position()), suspended=suspended))

    def restore(self, kept: int) -> None:
        """From a backup of the first so many events: the others are lost, and nobody hears of them any more.

        It goes on above every position ever given; what it lists is newer than all that was lost.
        """
        lost = self.history[kept:]
        self.history = self.history[:kept]
        for told in lost:
            self.unacknowledged.pop(told.jti, None)
        self._versions = {name: version for name, (version, _) in self.states().items()}
        self._position += 1_000
        self.restored_at = self._position
        self.restores.append((self.last_seq, self._position))
        self.incarnation = f"{int(self.incarnation, 16) + 1:016x}"
        self.checkpoint = CheckpointMember(self.incarnation, self._position, "aGFzaA", "cp-1", "c2ln")

    def heartbeat(self, at: UnixTime = NOW) -> bytes:
        claims = heartbeat_claims(
            stream_id="push", receiver=EDP, issuer=self.issuer, jti=self._draw(), iat=at, last_seq=self.last_seq,
            checkpoint=self.checkpoint,
        )  # fmt: skip
        return self.signer.sign_event(claims)

    def verification(self, state: str | None = None, challenge: str | None = None, stream_id: str = "push") -> bytes:
        fact = VerificationFact(stream_id, NOW, state, challenge)
        claims = event_claims(fact, receiver=EDP, role=Role.EDP, issuer=self.issuer, jti=self._draw())
        return self.signer.sign_event(claims)

    def stream_updated(self, status: str, at: UnixTime, stream_id: str = "push") -> bytes:
        fact = StreamFact(stream_id, status, at, "maintenance")
        claims = event_claims(fact, receiver=EDP, role=Role.EDP, issuer=self.issuer, jti=self._draw())
        return self.signer.sign_event(claims)

    def states(self) -> dict[str, tuple[int, bool]]:
        """The truth: of each consent its version, and whether it has ended."""
        return {
            fact.consent_id: (fact.consent_version, fact.state in ENDED)
            for fact in (told.fact for told in self.history)
            if isinstance(fact, ConsentFact)
        }

    def suspended(self) -> dict[str, bool]:
        return {f.client_id: f.suspended for f in (told.fact for told in self.history) if isinstance(f, PartyFact)}

    def _draw(self) -> str:
        self._draws += 1
        return f"c2.{self._draws:022}"

    def _next_position(self) -> int:
        return self._position + 1 + self._position % 3

    def _tell(self, fact: ConsentFact | PartyFact) -> Told:
        prev = self.last_seq
        self._position = self._next_position()
        jti = event_jti(fact, self.issuer, EDP)
        claims = event_claims(
            fact, receiver=EDP, role=Role.EDP, issuer=self.issuer, jti=jti, seq=self._position, prev=prev
        )
        told = Told(self._position, jti, self.signer.sign_event(claims), fact)
        self.history.append(told)
        self.unacknowledged[jti] = told.compact
        return told

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.fails is not None:
            raise self.fails

    # Transmitter

    async def event_keys(self) -> bytes:
        self._called("event_keys")
        return self.keys

    async def poll(
        self, poll_url: str, ack: Sequence[str], max_events: int, errors: Mapping[str, RefusedEvent]
    ) -> Polled:
        self._called("poll")
        self.before_poll()
        if poll_url != POLL_URL:
            raise NoSuchStream("no such stream")
        for jti in (*ack, *errors):
            self.unacknowledged.pop(jti, None)
        self.refused |= {jti: refusal.err for jti, refusal in errors.items()}
        given = list(self.unacknowledged.items())[: min(max_events, self._page)]
        sets = {jti: compact.decode() for jti, compact in reversed(given)}
        return Polled(sets, more_available=0 < len(given) < len(self.unacknowledged))

    async def changes(self, after_seq: int, incarnation: str) -> Changes:
        self._called("changes")
        is_lost = any(kept < after_seq < at for kept, at in self.restores)
        if after_seq < self.horizon or incarnation not in {"", self.incarnation} or is_lost:
            raise TooOld("too old")
        listed = [told for told in self.history if told.seq > after_seq]
        lines = _lines(listed[: self._page], 0)
        return Changes(self._position, self.incarnation, *lines, more=len(listed) > self._page)

    async def snapshot(self, cursor: str | None) -> Page:
        self._called("snapshot")
        newest = {
            told.fact.consent_id if isinstance(told.fact, ConsentFact) else "party": told for told in self.history
        }
        begin = int(cursor or 0)
        part = list(newest.values())[begin : begin + self._page]
        end = begin + self._page
        consents, parties = _lines(part, self.restored_at)
        if self.restored_at and "party" not in newest:  # all that was told of it is lost
            parties = (ListedParty(0, ATP, party_version(0, self.restored_at), suspended=False),)
        following = str(end) if end < len(newest) else None
        return Page(self._position, self.incarnation, consents, parties, following)

    async def streams(self) -> tuple[Stream, ...]:
        self._called("streams")
        return tuple(self.made.values())

    async def create_stream(self, push_url: str | None) -> Stream:
        self._called("create_stream")
        made = (
            Stream("poll", is_push=False, endpoint_url=POLL_URL)
            if push_url is None
            else Stream("push", is_push=True, endpoint_url=push_url)
        )
        self.made[made.stream_id] = made
        self._challenged(is_push=made.is_push)
        return made

    async def move_stream(self, stream_id: str, push_url: str) -> Stream:
        self._called("move_stream")
        self._refuse_too_soon(self._challenged_at)
        self.made[stream_id] = Stream(stream_id, is_push=True, endpoint_url=push_url)
        self._challenged(is_push=True)
        return self.made[stream_id]

    async def confirm(self, stream_id: str, challenge: str) -> None:
        self._called("confirm")
        if stream_id not in self.made:
            raise NoSuchStream("no such stream")
        self.confirmed.append((stream_id, challenge))
        self.push_status, self._challenged_at = "enabled", float("-inf")

    async def status(self, stream_id: str) -> str:
        self._called("status")
        return self.push_status if stream_id in self.made else "disabled"

    async def verify(self, stream_id: str, state: str | None) -> None:
        self._called("verify")
        self._refuse_too_soon(max(self._verified_at, self._challenged_at))
        self.verified.append((stream_id, state))
        if self.now is not None:
            self._verified_at = self.now()
            if self.push_status == "paused":
                self._challenged_at = self._verified_at

    def _challenged(self, *, is_push: bool) -> None:
        if is_push:
            self._challenged_at = float("-inf") if self.now is None else self.now()

    def _refuse_too_soon(self, last: float) -> None:
        if self.now is not None and (wait := last + 60.0 - self.now()) > 0:
            raise TooManyCalls("too soon", wait=Seconds(wait))


def _lines(told: list[Told], floor: int) -> tuple[tuple[ListedConsent, ...], tuple[ListedParty, ...]]:
    consents, parties = list[ListedConsent](), list[ListedParty]()
    for one in told:
        fact = one.fact
        if isinstance(fact, ConsentFact):
            consents.append(
                ListedConsent(
                    one.seq,
                    fact.consent_id,
                    fact.consent_version,
                    wire_state(fact.state),
                    fact.client_id,
                    fact.effective_at,
                    fact.expires_at if fact.state is State.ACTIVE else None,
                    fact.authorization_details if fact.state is State.ACTIVE else (),
                )
            )
        elif isinstance(fact, PartyFact):
            parties.append(ListedParty(one.seq, fact.client_id, party_version(one.seq, floor), fact.suspended))
    return tuple(consents), tuple(parties)
