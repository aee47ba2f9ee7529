"""Keys of one process, for all its worlds."""

import functools

from cryptography.hazmat.primitives.asymmetric import ec

from engine.events.signing import PemEventSigner, new_event_key
from engine.tokens.answer_keys import PemAnswerSigner


@functools.cache
def signers() -> tuple[PemEventSigner, ...]:
    """The pushers' event keys, one after another."""
    return tuple(PemEventSigner.from_pem(new_event_key()) for _ in range(3))


@functools.cache
def strangers_key() -> PemEventSigner:
    """An event key that nobody publishes."""
    return PemEventSigner.from_pem(new_event_key())


@functools.cache
def answer_signers() -> tuple[PemAnswerSigner, PemAnswerSigner]:
    """The nodes' key for answers, and one that nobody publishes."""
    first, second = (PemAnswerSigner(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    return first, second
