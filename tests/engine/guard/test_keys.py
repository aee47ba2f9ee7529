"""When a guard fetches the keys of signed answers: once a minute at most, and soon again where none could be had."""

import pytest

from engine.guard.calls import Call, CallFailed, Reply
from engine.guard.evidence_words import Failure
from engine.guard.keys import AFTER_FAILURE, MOST_OFTEN, AnswerKeys
from tests.support.guard_answers import ISSUER, jwks


class Issuer:
    """Gives its keys, or what it is told to. now: of the guard."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.says: Reply | Failure = Reply(200, b"application/json", jwks())

    async def call(self, _address: str, _call: Call) -> Reply:
        self.asked += 1
        if isinstance(self.says, Failure):
            raise CallFailed(self.says)
        return self.says

    async def aclose(self) -> None:
        """Nothing is open."""

    def keys(self) -> AnswerKeys:
        return AnswerKeys(f"{ISSUER}/jwks", ISSUER, self, lambda: self.now)


@pytest.mark.parametrize("says", [Failure.CONNECT, Reply(503)])
async def test_what_could_not_be_had_is_asked_for_soon_again(says: Failure | Reply) -> None:
    issuer = Issuer()
    keys, issuer.says = issuer.keys(), says
    assert not await keys.refresh()
    issuer.says = Reply(200, b"application/json", jwks())
    assert not await keys.refresh()
    assert issuer.asked == 1
    issuer.now += AFTER_FAILURE
    assert await keys.refresh()
    assert keys.current is not None


@pytest.mark.parametrize("body", [jwks(), b"{}"])
async def test_a_set_that_was_given_is_not_asked_for_within_a_minute(body: bytes) -> None:
    issuer = Issuer()
    keys, issuer.says = issuer.keys(), Reply(200, b"application/json", body)
    await keys.refresh()
    issuer.now += MOST_OFTEN - 1
    assert not await keys.refresh()
    assert issuer.asked == 1
    issuer.now += 1
    await keys.refresh()
    assert issuer.asked == 2
