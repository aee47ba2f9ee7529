"""A node's question and the projector's answer, sealed so that nobody in Redis can speak for either.

A node asks "what is the ledger's position?" with a nonce of its own; only the answer that carries this nonce
counts (architecture: freshness). A forged question would acknowledge what the node has not applied, a forged
answer would call it current; so both carry a MAC, each under its own label. An old question that is played
again is harmless: what an instance has once applied under an incarnation it never un-applies.
"""

import hashlib
import hmac
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from engine.errors import Fault, Kind
from engine.feed.entries import MAC_BYTES, Position

T = TypeVar("T")

NodeId = Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]  # the `client_id` of a participant of role NODE
Drawn = Annotated[str, Meta(pattern="^[0-9a-f]{16,64}$")]  # lower-case hexadecimal, drawn at random
Incarnation = Annotated[str, Meta(pattern="^[0-9a-f]{0,64}$")]  # empty: the node has no replica yet
Seq = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Question(msgspec.Struct, frozen=True, array_like=True):
    """What a node asks, and what it has applied. `instance` is drawn at each start, `nonce` for each question."""

    node_id: NodeId
    instance: Drawn
    nonce: Drawn
    incarnation: Incarnation
    applied: Seq

    @property
    def position(self) -> Position:
        """What the node says it has applied."""
        return Position(self.incarnation, self.applied)


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The ledger's position, read after the question with this nonce had been read."""

    instance: Drawn
    nonce: Drawn
    incarnation: Incarnation
    seq: Seq

    @property
    def position(self) -> Position:
        """The position that the ledger had reached."""
        return Position(self.incarnation, self.seq)


class ForgedMessage(Fault):
    """A question or an answer that no key of ours has sealed."""

    kind = Kind.BROKEN


_QUESTION: Final = b"ccs.feed.question\x00"
_ANSWER: Final = b"ccs.feed.answer\x00"
_encode = msgspec.msgpack.Encoder().encode
_questions = msgspec.msgpack.Decoder(Question)
_answers = msgspec.msgpack.Decoder(Answer)


def seal_question(question: Question, key: bytes) -> bytes:
    """Encode a question and put its MAC in front. key: at least 32 bytes."""
    return _seal(_QUESTION, _encode(question), key)


def unseal_question(sealed: bytes, keys: tuple[bytes, ...]) -> Question:
    """Check and decode. keys: newest first. Raises ForgedMessage."""
    return _unseal(_QUESTION, sealed, keys, _questions)


def seal_answer(answer: Answer, key: bytes) -> bytes:
    """Encode an answer and put its MAC in front. key: at least 32 bytes."""
    return _seal(_ANSWER, _encode(answer), key)


def unseal_answer(sealed: bytes, keys: tuple[bytes, ...]) -> Answer:
    """Check and decode. keys: newest first. Raises ForgedMessage."""
    return _unseal(_ANSWER, sealed, keys, _answers)


def _mac(label: bytes, body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, label + body, hashlib.sha256)[:MAC_BYTES]


def _seal(label: bytes, body: bytes, key: bytes) -> bytes:
    return _mac(label, body, key) + body


def _unseal(label: bytes, sealed: bytes, keys: tuple[bytes, ...], decoder: msgspec.msgpack.Decoder[T]) -> T:
    mac, body = sealed[:MAC_BYTES], sealed[MAC_BYTES:]
    if not any(hmac.compare_digest(mac, _mac(label, body, key)) for key in keys):
        raise ForgedMessage("a question or an answer failed its check")
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise ForgedMessage("a question or an answer could not be read", detail=str(error)) from error
