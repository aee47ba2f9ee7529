"""Who may act on consents through the machine API, and which consent they mean.

An ATP acts on its own consents and an operator on all; whose a consent is, the commands decide from the `Act`.
"""

from collections.abc import Callable

from quart import request

from admin.callers import Caller, Callers
from admin.consents.commands import UnknownConsent
from admin.ledger.events import Act, Initiator, Route
from admin.ledger.store import Idempotency
from admin.writing import idempotency
from engine.clock import UnixTime
from engine.consent.records import ConsentId, Role, consent_key


class Parties:
    """The parties to consents among the callers."""

    def __init__(self, callers: Callers, now: Callable[[], UnixTime]) -> None:
        self._callers = callers
        self._now = now

    async def calling(self) -> Caller:
        """The caller of the request at hand. Raises UnknownCaller, SuspendedCaller, WrongRole."""
        return (await self._callers.authenticate(request.scope)).require(Role.ATP, Role.OPERATOR)

    def act_of(self, caller: Caller) -> Act:
        """What it does, as evidence: an ATP's act is marked as such."""
        initiator = Initiator.ATP if caller.role is Role.ATP else Initiator.OPERATOR
        return Act(initiator, caller.client_id, Route.API, self._now())


def consent_id_of(text: str) -> ConsentId:
    """A consent's id from a path. Raises UnknownConsent where it cannot be one."""
    consent_id = ConsentId(text)
    try:
        consent_key(consent_id)
    except ValueError:
        raise UnknownConsent("there is no such consent") from None
    return consent_id


def key_of(caller: Caller, body: bytes) -> Idempotency:
    """The idempotency key of the request at hand. Raises MissingIdempotencyKey."""
    offered = request.headers.get("Idempotency-Key")
    return idempotency(caller.client_id, offered, request.method, request.path, body)
