"""What an input is: its first byte says which check reads the rest, so that one corpus and one run serve them all."""

from collections.abc import Callable
from pathlib import Path

from tests.fuzz.http_invariants import check_connection
from tests.fuzz.message_invariants import check_evaluation, check_form, check_forwarded, check_request, check_token

CORPUS = Path(__file__).parent / "corpus"
FINDS = Path(__file__).parent / "finds"
CHECKS: dict[bytes, Callable[[bytes], None]] = {
    b"C": check_connection,
    b"E": check_evaluation,
    b"F": check_form,
    b"P": check_forwarded,
    b"R": check_request,
    b"T": check_token,
}


def check(data: bytes) -> None:
    """Raise AssertionError, or whatever escapes the code, where an input breaks a rule. Unknown kinds: connections."""
    found = CHECKS.get(data[:1])
    if found is None:
        check_connection(data)
    else:
        found(data[1:])
