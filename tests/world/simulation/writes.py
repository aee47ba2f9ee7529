"""What became of the writes: each is acknowledged, refused, or not known, and the ledger must agree (P7)."""

import enum

from admin.ledger.barrier import Effect, Standing
from admin.ledger.store import Append, Idempotency, Receipt
from engine.consent.records import ConsentId, ConsentKey, consent_key
from engine.errors import Fault


class Outcome(enum.Enum):
    """What the writer was told."""

    UNKNOWN = "unknown"
    DONE = "done"
    REFUSED = "refused"


class Write:
    """One write, under one idempotency key, however often it is sent."""

    def __init__(self, kind: str, about: ConsentId, key: Idempotency) -> None:
        self.kind, self.consent_id, self.key = kind, about, key
        self.append: Append | None = None  # of a grant
        self.outcome = Outcome.UNKNOWN
        self.receipts: list[Receipt] = []
        self.effect: Effect | None = None
        self.refusal = ""
        self.unanswered = 0
        self.lost = False  # by a restore, what was done and what was refused: then nothing is promised

    @property
    def consent_key(self) -> ConsentKey:
        return consent_key(self.consent_id)

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing more to be asked."""
        effective = self.effect is not None and self.effect.state is Standing.EFFECTIVE
        return self.outcome is Outcome.REFUSED or effective or (self.outcome is Outcome.DONE and self.kind == "grant")

    def lose(self) -> None:
        """A restore has undone it; and what was refused may have come back."""
        self.lost = True
        self.receipts.clear()

    def acknowledge(self, receipt: Receipt, effect: Effect | None) -> None:
        self.outcome, self.effect, self.lost = Outcome.DONE, effect, False
        self.receipts.append(receipt)

    def refuse(self, fault: Fault) -> None:
        self.outcome, self.refusal = Outcome.REFUSED, type(fault).__name__
