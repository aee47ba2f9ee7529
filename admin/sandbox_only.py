"""What exists only where the ledger's first event says `sandbox`: direct grants and minting without a journey."""

from typing import Literal

from engine.errors import Fault, Kind

LedgerKind = Literal["sandbox", "production"]


class SandboxOnly(Fault):
    """In production a consent comes from the consumer's journey alone."""

    kind = Kind.FORBIDDEN


def require_sandbox(kind: LedgerKind) -> None:
    """Raises SandboxOnly on a production ledger."""
    if kind != "sandbox":
        raise SandboxOnly("this call exists in a sandbox only")
