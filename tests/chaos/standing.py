"""Consents that stand for longer than a run, as most consents do, and the tokens that their ATPs hold of them.

Each is asked about round and round. A token lives for as long as the issuer says; its ATP asks for the next one
shortly before its end, and goes on with the old one while it gets none. At the start every token is of some age, so
that they are not all replaced at once. Pure.
"""

from random import Random

import msgspec

from tests.chaos.knowledge import Token

LEFT = (30.0, 60.0)  # seconds of a token's life that are left when its ATP asks for the next one
ASKED_UNTIL = 30.0  # seconds of a token's life that are left when an ended consent is asked about for the last time


class Held(msgspec.Struct):
    """A consent and the newest token of it. replaced_at: wall time. busy: the next token is on its way."""

    token: Token
    replaced_at: float
    ended: bool = False
    renewed: bool = False
    busy: bool = False


class Standing:
    """The population. Its order is drawn once, so that neighbours in a batch have nothing in common."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.held: list[Held] = []
        self._turn = 0

    def add(self, token: Token, wall: float) -> None:
        """One more, of some age: replaced at any moment of what is left of its life."""
        last = max(wall, token.expires_at - LEFT[1])
        self.held.insert(
            self._random.randrange(len(self.held) + 1),
            Held(token, self._random.uniform(min(wall + LEFT[0], last), last)),
        )

    def replace(self, held: Held, token: Token) -> None:
        """Its ATP has the next token."""
        held.token = token
        held.replaced_at = token.expires_at - self._random.uniform(*LEFT)

    def due(self, wall: float) -> list[Held]:
        """Whose ATPs ask for the next token now."""
        return [one for one in self.held if not one.ended and not one.busy and one.replaced_at <= wall]

    def next(self, count: int, wall: float) -> list[Token]:
        """The next so many tokens, of one EDP: the first one's. Of ended consents as long as the token lives."""
        found: list[Token] = []
        for _ in range(len(self.held)):
            if len(found) == count:
                break
            self._turn = (self._turn + 1) % len(self.held)
            one = self.held[self._turn]
            if one.ended and one.token.expires_at - ASKED_UNTIL < wall:
                continue
            if not found or found[0].edp == one.token.edp:
                found.append(one.token)
        return found

    def take(self, *, to_end: bool) -> Held | None:
        """One that stands, to be revoked or, once, renewed."""
        fit = [one for one in self.held if not one.ended and not one.busy and (to_end or not one.renewed)]
        if not fit:
            return None
        held = self._random.choice(fit)
        held.ended, held.renewed = held.ended or to_end, held.renewed or not to_end
        return held
