"""A worker's introspection endpoint over a replica of its own; clocks, Redis and claims are moved by hand."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import trio

from engine.clock import BootTime, UnixTime
from engine.consent.records import ClientId, ConsentId, ConsentKey, ConsentRecord, ParticipantRecord, Role
from engine.decision.freshness import MAX_SILENCE, Bound
from engine.decision.questions import ClaimResult
from engine.errors import Fault
from engine.feed.entries import Entry, EntryKind
from engine.listener.callers import Callers
from engine.listener.http1 import Headers, Request, Response
from engine.listener.introspection import Introspection, Outcome
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.read_through import Found
from engine.listener.security import SecurityEvent
from engine.listener.signed_answers import Signing
from engine.listener.tls import Peer
from engine.replica.environment import Environment
from engine.replica.reader import Moment, View, view_of
from engine.replica.store import ReplicaStore
from engine.tokens.answer_keys import PemAnswerSigner, new_answer_key
from engine.tokens.grants import consent_key
from engine.tokens.memo import VerifiedTokens
from tests.support.pki import CONSENT_ID, DAY, ISSUER, METER_KEY, NOW, Pki, consent_record
from tests.support.replicas import BOOT, INCARNATION, entry, open_store, participant_entry
from tests.support.replicas import bound as unproven

FORM: tuple[bytes, bytes] = (b"content-type", b"application/x-www-form-urlencoded")
UPTIME = BootTime(500_000.0)  # longer than the outage cap, so that a bound of this boot may be that old
KEY = consent_key(CONSENT_ID)


class FrozenClock:
    """Both clocks, moved by hand."""

    def __init__(self, at: UnixTime = NOW) -> None:
        self.at, self.up = at, UPTIME

    def now(self) -> UnixTime:
        return self.at

    def boot(self) -> BootTime:
        return self.up

    def pass_seconds(self, seconds: int) -> None:
        self.at, self.up = UnixTime(self.at + seconds), BootTime(self.up + seconds)


class KeptEvents:
    def __init__(self) -> None:
        self.events: list[SecurityEvent] = []

    def record(self, event: SecurityEvent) -> None:
        self.events.append(event)


class Beyond:
    """Redis, as far as read-through goes: what it holds, and what happens while it is asked."""

    def __init__(self) -> None:
        self.held: dict[ConsentKey, Entry] = {}
        self.asked: list[ConsentKey] = []
        self.broken = False
        self.silent = False
        self.meanwhile = lambda: None

    async def find(self, keys: Sequence[ConsentKey]) -> Found:
        self.asked += keys
        if self.silent:
            await trio.sleep_forever()
        if self.broken:
            raise Fault("no Redis")
        self.meanwhile()
        return {key: self.held[key] for key in keys if key in self.held}


class Ledgered:
    """The claims of the feed service."""

    def __init__(self) -> None:
        self.held: dict[tuple[ConsentId, ClientId], str] = {}
        self.reachable = True

    async def claim(self, consent_id: ConsentId, edp: ClientId, share_id: str) -> ClaimResult:
        await trio.lowlevel.checkpoint()
        if not self.reachable:
            return ClaimResult.UNREACHABLE
        holder = self.held.setdefault((consent_id, edp), share_id)
        return ClaimResult.HELD if holder == share_id else ClaimResult.TAKEN


class OwnReplica:
    """The writer's own open file as a reader sees it: LMDB allows a process to open a file once only."""

    def __init__(self, store: ReplicaStore) -> None:
        self._store = store
        self._views: dict[Environment, View] = {}  # one a generation: it knows what it has seen before

    def transaction(self) -> View:
        environment = self._store.environment
        if environment is None:
            return View(None)
        return self._views.setdefault(environment, view_of(environment))

    def moment(self) -> Moment:
        with self.transaction() as view:
            return view.moment


class HeldKey:
    """The node's answer key. None: the issuer does not publish it."""

    def __init__(self) -> None:
        self.held: PemAnswerSigner | None = PemAnswerSigner.from_pem(new_answer_key())

    def signer(self, _now: UnixTime) -> PemAnswerSigner | None:
        return self.held


class Node:
    """A worker's endpoint over a replica of its own."""

    def __init__(self, directory: Path, pki: Pki, keys: bytes, at: UnixTime = NOW) -> None:
        self.pki = pki
        self.clock = FrozenClock(at)
        self.security = KeptEvents()
        self.beyond = Beyond()
        self.claims = Ledgered()
        self.answer_key = HeldKey()
        self.counted: Counter[Outcome] = Counter()
        self.store: ReplicaStore = open_store(directory)
        self.directory = directory
        self.seq = 0
        self.replica = OwnReplica(self.store)
        self.endpoint = self.make_endpoint()
        self.keys = keys

    def make_endpoint(self, *, shows_codes: bool = False) -> Introspection:
        def counter(outcome: Outcome) -> object:
            return lambda: self.counted.update([outcome])

        return Introspection(
            replica=self.replica,
            memo=VerifiedTokens(100),
            meter_key=METER_KEY,
            clock=self.clock,
            boot_id=BOOT,
            read_through=self.beyond,
            claims=self.claims,
            callers=Callers(self.security),
            keys=IssuerKeys(ISSUER),
            counts={outcome: counter(outcome) for outcome in Outcome},
            signing=Signing(ISSUER, self.answer_key.signer, shows_codes=shows_codes),
        )

    def open(self, keys: bytes | None = None) -> None:
        generation = self.store.begin_generation()
        generation.seal(unproven(0))
        self.store.adopt(generation)
        self.store.put_keys(self.keys if keys is None else keys)

    def apply(self, *entries: Entry, bound: Bound | None = None) -> None:
        """Apply and earn `current` as of this second, or another bound."""
        numbered = []
        for item in entries:
            self.seq += 1
            numbered.append(msgspec.structs.replace(item, seq=self.seq))
        last = self.bound() if bound is None else msgspec.structs.replace(bound, applied=self.seq)
        self.store.apply(numbered, last)

    def bound(self) -> Bound:
        return Bound(INCARNATION, self.seq, BOOT, BootTime(self.clock.up + MAX_SILENCE), self.clock.at)

    def register(self, client_id: str, role: Role, **fields: object) -> ParticipantRecord:
        # The made-up authority issues for the machine's time, the test lives at NOW.
        record = self.pki.participant(client_id, role)
        held = tuple(msgspec.structs.replace(item, not_after=UnixTime(NOW + 30 * DAY)) for item in record.certificates)
        record = msgspec.structs.replace(record, **({"certificates": held} | fields))
        self.apply(participant_entry(0, record))
        return record

    def grant(self, record: ConsentRecord | None = None, key: ConsentKey = KEY) -> None:
        self.apply(entry(0, EntryKind.CONSENT, key, record or consent_record()))

    def peer(self, client_id: str, not_after: int = NOW + 30 * DAY) -> Peer:
        return Peer(self.pki.client(client_id).certificate.thumbprint, UnixTime(not_after))

    async def ask(
        self,
        token: bytes | None,
        caller: str = "edp-1",
        *,
        method: bytes = b"POST",
        target: bytes = b"/introspect",
        headers: Headers = (FORM,),
        body: bytes | None = None,
        peer: Peer | None = None,
        **parameters: str,
    ) -> Response:
        form = ({} if token is None else {"token": token.decode()}) | parameters
        sent = urlencode(form).encode() if body is None else body
        request = Request(method, target, headers, sent, keep_alive=True)
        answer = self.endpoint(request, peer or self.peer(caller))
        return answer if isinstance(answer, Response) else await answer
