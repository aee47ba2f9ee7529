"""What this run knows of its consents, and which of them to ask about next.

Written by whoever grants and revokes, read by whoever asks: both in one process, so that what was known before a
question was sent is never in doubt.
"""

from collections import deque
from random import Random

import msgspec
import trio

from tests.chaos.judge import Consent

USED_BEFORE_END = 30.0  # seconds of a token's life that are left when it is asked about for the last time
RECENT = 60  # ended consents that are asked about most
ENDED = 2_000


class Token(msgspec.Struct, frozen=True):
    """A token and the consent that it is of. expires_at: wall time. atp, mpxn: whose it is, and of what."""

    token: str
    edp: str
    consent: Consent
    expires_at: float
    atp: str = ""
    mpxn: str = ""


class Question(msgspec.Struct, frozen=True):
    """node: "" = any."""

    token: Token
    node: str = ""


class Knowledge:
    """Tokens of consents that stand, of those that have lately ended, and of those that ended long ago."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.standing: list[Token] = []
        self._ended: deque[Token] = deque(maxlen=ENDED)
        self._urgent: deque[Question] = deque()
        self.all: dict[str, Token] = {}
        self._added = trio.Event()

    def add(self, token: Token) -> None:
        """Of a consent that was granted."""
        self.standing.append(token)
        self.all[token.consent.consent_id] = token
        self._added.set()
        self._added = trio.Event()

    async def wait_standing(self, count: int) -> None:
        """Until so many consents stand."""
        while len(self.standing) < count:
            await self._added.wait()

    def take_standing(self) -> Token | None:
        """One that is to be revoked; it counts as ended from now on."""
        if not self.standing:
            return None
        index = self._random.randrange(len(self.standing))
        self.standing[index], self.standing[-1] = self.standing[-1], self.standing[index]
        token = self.standing.pop()
        self._ended.append(token)
        return token

    def ask_everywhere(self, token: Token, nodes: list[str]) -> None:
        """Its revocation has just become effective: every node is asked at once."""
        self._urgent.extend(Question(token, node) for node in nodes)

    def next(self, wall: float) -> Question | None:
        """What to ask next; tokens that are about to end are let go of. None: there is nothing yet."""
        if self._urgent:
            return self._urgent.popleft()
        for _ in range(20):
            token = self._draw()
            if token is None:
                return None
            if token.expires_at - USED_BEFORE_END > wall:
                return Question(token)
            if token in self.standing:
                self.standing.remove(token)
        return None

    def _draw(self) -> Token | None:
        drawn = self._random.random()
        if self._ended and (drawn > 0.6 or not self.standing):
            recent = min(RECENT if drawn > 0.7 else ENDED, len(self._ended))
            return self._ended[-1 - self._random.randrange(recent)]
        return self._random.choice(self.standing) if self.standing else None
