"""The issuer's word that Redis has the record of every token of its that is still alive.

Absence proves nothing in a store that may be emptied, roll back, or miss a write. So the issuer vouches, in Redis
itself, a few times a second, and only while it knows three things: each token it handed out within the longest token's
life went into Redis first; over one and the same link; and the witness that it put there at the beginning still stands,
so nobody has emptied Redis since. The word lapses by itself within a second. Who reads records and word in one MGET,
and finds the word genuine and its witness there, may conclude from an absent record that there is no such token.
"""

import hashlib
import hmac
from typing import Final

import msgspec

from engine.clock import Seconds, UnixTime
from engine.feed.entries import MAC_BYTES

LIFE: Final = Seconds(1.0)  # of one word
MAX_AGE: Final = 5  # seconds by two machines' clocks: a word that was kept back and played again is older
WITNESS_BYTES: Final = 16

_LABEL: Final = b"ccs.tokens.vouched\x00"


class Word(msgspec.Struct, frozen=True, array_like=True):
    """Stored. witness: what must stand beside it."""

    witness: bytes
    at: UnixTime


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Word).decode


def seal_word(witness: bytes, at: UnixTime, key: bytes) -> bytes:
    """The issuer's word of this second. key: at least 32 bytes."""
    body = _encode(Word(witness, at))
    return _mac(body, key) + body


def vouches(sealed: bytes | None, witness: bytes | None, keys: tuple[bytes, ...], now: UnixTime) -> bool:
    """Whether this word, read together with its witness, is genuine and of now. keys: newest first."""
    if not sealed or not witness:
        return False
    mac, body = sealed[:MAC_BYTES], sealed[MAC_BYTES:]
    if not any(hmac.compare_digest(mac, _mac(body, key)) for key in keys):
        return False
    try:
        word = _decode(body)
    except msgspec.MsgspecError:
        return False
    return word.witness == witness and abs(now - word.at) <= MAX_AGE


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, _LABEL + body, hashlib.sha256)[:MAC_BYTES]
