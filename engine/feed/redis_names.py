"""Every key and channel of ours in Redis, in one place.

All carry the hash tag `{ccs}`: in a cluster they share one slot, so that one script may touch several of them
and one link, to the primary of that slot, reaches them all.
"""

from typing import Final

from engine.feed.entries import EntryKind

HASH_TAG: Final = b"ccs"

STREAM: Final = b"{ccs}:feed"  # ids `seq-0`; field `e` = sealed entry
STREAM_FIELD: Final = b"e"
HEAD: Final = b"{ccs}:head"  # text: incarnation, a space, seq
ASKED: Final = b"{ccs}:asked"  # pub/sub channel; message = node_id, no more than a hint to look
ANSWER_FIELD: Final = b"a"  # of an answers stream: a sealed answer

QUESTION_LIFE_MS: Final = 30_000  # a question nobody renews is of a node that is gone
ANSWERS_LIFE_MS: Final = 10_000  # an answer is worth nothing after MAX_SILENCE; the rest is for diagnosis
ANSWERS_LENGTH: Final = 1  # only the newest answer of an instance matters

_RECORD: Final = b"{ccs}:rec:"
_QUESTION: Final = b"{ccs}:ask:"
_ANSWERS: Final = b"{ccs}:answers:"
_TOKEN: Final = b"{ccs}:tok:"

TOKENS_VOUCHED: Final = b"{ccs}:tokens-vouched"  # the issuer's sealed word that all records of live tokens are here
TOKENS_WITNESS: Final = b"{ccs}:tokens-witness"  # random bytes that the word speaks of; gone when Redis was emptied

QUESTIONS_PATTERN: Final = _QUESTION + b"*"  # for SCAN


def stream_id(seq: int) -> bytes:
    """The id of a position in the stream, and the `last` to read on from."""
    return b"%d-0" % seq


def record_key(kind: EntryKind, key: bytes) -> bytes:
    """Where the newest sealed entry of a (kind, key) stands."""
    return _RECORD + b"%d:" % kind + key


def question_key(node_id: str) -> bytes:
    """Where a node keeps its newest sealed question; expires after QUESTION_LIFE_MS."""
    return _QUESTION + node_id.encode()


def answers_key(instance: str) -> bytes:
    """The stream on which one feeder instance is answered."""
    return _ANSWERS + instance.encode()


def token_key(digest: bytes) -> bytes:
    """Where the record of a token stands. digest: the 32 raw bytes of SHA-256 over the whole token."""
    return _TOKEN + digest
