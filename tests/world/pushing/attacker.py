"""Somebody on the wire, with a key of its own: forged, replayed, foreign and stale events and answers.

It has seen all that was pushed and answered. None of its own may be taken: no 202, nothing stored, nothing changed.
What it only says again may be taken, and then changes nothing.
"""

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from engine.clock import UnixTime
from engine.consent.records import ClientId, ConsentId, Role
from engine.consent.states import State
from engine.events.facts import Change, ConsentFact, InitiatingEntity, PartyFact
from engine.events.sets import EventClaims, event_claims, heartbeat_claims
from engine.guard.answers import SIGNED
from engine.guard.calls import Call, Reply
from engine.listener.signed_answers import signed_body
from engine.tokens.answer_keys import AnswerSigner
from engine.tokens.jws import encode_part
from engine.tokens.verify import token_digest
from tests.support.push_service import ISSUER
from tests.world.pushing.keys import answer_signers, strangers_key
from tests.world.pushing.ledger import ATP, EDPS
from tests.world.pushing.network import Answering

if TYPE_CHECKING:
    from tests.world.pushing.world import World

SEEN: Final = 60  # pushes remembered
FORGED: Final = "forged"  # how the ids of its own events begin
FORGERIES: Final = ("of another issuer", "of an unknown key", "with a broken signature")
STALE: Final = 62.0  # seconds: older than any answer may be


class Given(msgspec.Struct, frozen=True):
    """A genuine answer, as it went over the wire."""

    at: float
    token: str
    reply: Reply
    is_yes: bool


class Attacker:
    """genuine events are seen by `saw`, answers by `heard`."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._pushes: dict[ClientId, deque[bytes]] = {edp: deque(maxlen=SEEN) for edp in EDPS}
        self._answers: dict[ClientId, deque[Given]] = {edp: deque(maxlen=SEEN) for edp in EDPS}
        self._made = 0

    def saw(self, client_id: ClientId, content: bytes) -> None:
        """A push goes by."""
        if client_id in self._pushes:
            self._pushes[client_id].append(content)

    def heard(self, client_id: ClientId, token: str, reply: Reply, *, is_yes: bool) -> None:
        """An answer goes by."""
        self._answers[client_id].append(Given(self._world.now(), token, reply, is_yes))

    # Events.

    async def run(self) -> None:
        """Until it is calm: every now and then an event that nobody should take, or has taken before."""
        world = self._world
        while not world.calm:
            await world.last(world.random.uniform(5.0, 40.0))
            client_id, kind = (
                world.random.choice(EDPS),
                world.random.choice(("replayed", "of another receiver", *FORGERIES)),
            )
            content = self.forged(client_id, kind)[1] if kind in FORGERIES else self._again(client_id, kind)
            if content and not world.receivers_down:
                world.count(f"fault: event {kind}")
                world.tell(f"somebody sends {client_id} an event {kind}")
                world.guards[client_id].receive(content, Answering())

    def _again(self, client_id: ClientId, kind: str) -> bytes:
        """Something that went by, to this receiver or to the other; b"": nothing has."""
        is_foreign = kind == "of another receiver"
        seen = self._pushes[next(edp for edp in EDPS if (edp != client_id) == is_foreign)]
        content = self._world.random.choice(seen) if seen else b""
        if is_foreign:
            self._world.checker.nobody_takes(client_id, content)
        return content

    def forged(self, client_id: ClientId, kind: str) -> tuple[str, bytes]:
        """An event that is not the service's, and its id."""
        world, claims = self._world, self._claims(client_id)
        if kind == "of another issuer":
            claims = msgspec.structs.replace(claims, iss="https://other.example")
        signer = strangers_key() if kind == "of an unknown key" else world.signers[-1]
        content = signer.sign_event(claims)
        if kind == "with a broken signature":
            head, _, signature = content.split(b".")
            changed = msgspec.structs.replace(claims, txn="another")  # under the signature of what it was
            content = b".".join((head, encode_part(msgspec.json.encode(changed)), signature))
        world.checker.nobody_takes(client_id, content)
        return claims.jti, content

    def _claims(self, client_id: ClientId) -> EventClaims:
        """That a consent has ended, that it has not, that its ATP is stopped, or that all has been told."""
        world, now = self._world, self._world.wall()
        self._made += 1
        jti = f"{FORGED}-{self._made}"
        consents = [one for one in world.ledger.consents if client_id in world.ledger.now(one).edps]
        what = world.random.choice(("end", "renewal", "party", "heartbeat")) if consents else "party"
        if what == "heartbeat":
            return heartbeat_claims(
                stream_id=f"push-{client_id}", receiver=client_id, issuer=ISSUER, jti=jti, iat=now,
                last_seq=world.side.book.members[client_id].last_seq, checkpoint=None,
            )  # fmt: skip
        seq = world.ledger.seq + 1
        if what == "party":
            fact: PartyFact | ConsentFact = PartyFact(ATP, 2**40 + self._made, world.random.random() < 0.5, now)
        else:
            fact = self._fact(world.random.choice(consents), ends=what == "end")
        return event_claims(fact, receiver=client_id, role=Role.EDP, issuer=ISSUER, jti=jti, seq=seq)

    def _fact(self, consent_id: ConsentId, *, ends: bool) -> ConsentFact:
        record, now = self._world.ledger.now(consent_id), self._world.wall()
        return ConsentFact(
            Change.REVOKED if ends else Change.RENEWED, consent_id, record.consent_version + 3,
            State.REVOKED if ends else State.ACTIVE, now, now, ATP, record.edps, InitiatingEntity.USER,
            expires_at=record.expires_at,
        )  # fmt: skip

    # Answers.

    def has_stale(self, client_id: ClientId, token: str) -> bool:
        """Whether there is a yes to this token that must not be believed any more, however well it is signed."""
        until = self._world.now() - STALE
        return any(one.token == token and one.is_yes and one.at < until for one in self._answers[client_id])

    def answer(self, client_id: ClientId, token: str, call: Call, body: bytes, *, is_signed: bool) -> Reply | None:
        """What comes in place of the genuine answer; None: nothing that it could be made of. body: a yes to it.

        Where answers are plain, the call's name is what only the service knows; where they are signed it may be known.
        """
        world, seen = self._world, self._answers[client_id]
        own = [one for one in seen if one.token == token and (not is_signed or world.now() - one.at > STALE)]
        own = [one for one in own if one.is_yes] or own  # what is worth it
        others = [one.reply for one in seen if one.token != token]
        kinds = [("stale", lambda: world.random.choice(own).reply)] if own else []
        kinds += [("of another request", partial(world.random.choice, others))] if others else []
        if is_signed:
            kinds += [
                ("of an unknown key", partial(_signed, answer_signers()[1], client_id, token, world.wall(), body)),
                ("with a broken signature", partial(_broken, client_id, token, world.wall(), body)),
            ]
        if not kinds:
            return None
        kind, make = kinds[0] if world.random.random() < 0.5 else world.random.choice(kinds)
        world.count(f"fault: answer {kind}")
        reply = make()
        return msgspec.structs.replace(reply, request_id=call.request_id) if is_signed else reply


def signed_reply(client_id: ClientId, token: str, now: UnixTime, body: bytes, request_id: bytes) -> Reply:
    """As a node answers."""
    reply = _signed(answer_signers()[0], client_id, token, now, body)
    return msgspec.structs.replace(reply, request_id=request_id)


def _signed(signer: AnswerSigner, client_id: ClientId, token: str, now: UnixTime, body: bytes) -> Reply:
    raw = signed_body(signer, ISSUER, client_id, now, token_digest(token.encode()), body)
    return Reply(200, SIGNED, raw)


def _broken(client_id: ClientId, token: str, now: UnixTime, body: bytes) -> Reply:
    """The right key's signature, over another token's answer."""
    this, other = (_signed(answer_signers()[0], client_id, name, now, body).body for name in (token, token + "x"))
    return Reply(200, SIGNED, this.rpartition(b".")[0] + b"." + other.rpartition(b".")[2])
