"""Ending all consents of an ATP that was stopped, a stretch in each call, so slowly that nobody else has to wait.

Each call goes on behind the key that the one before came to, appends one step after the other, all of a step or none,
and keeps the pace of the outbox. Nothing is kept between calls: whoever begins anew finds those that are still active,
and an ended one is never touched. The suspension comes first, and is told first; without it nothing is ended here.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Final, Protocol

import msgspec
import trio
from msgspec import Meta
from quart import Blueprint, Response

from admin.consents.commands import revoke
from admin.consents.forms import RevocationReason, RevokeForm
from admin.consents.parties import Parties
from admin.directory.participants import is_client_id
from admin.edge import answer, read_json
from admin.ledger.atp_consents import ActiveConsents
from admin.ledger.events import Act, ParticipantEvent, event_of
from admin.ledger.store import Append, Ledger, SubjectState, VersionConflict
from admin.openapi import operation
from engine.clock import Seconds
from engine.consent.records import ClientId, ConsentKey, Role
from engine.consent.states import IllegalTransition
from engine.errors import Fault, Kind

STEP: Final = 60  # consents ended in one append: some milliseconds in which nobody else writes
REST: Final = 7.0  # after each step, in the time that it took: seven eighths of the service are left to others
MAX_REST: Final = 20.0
CALL: Final = Seconds(2.0)  # after which a call begins no further step
ATTEMPTS: Final = 5  # somebody else may end or renew one of a step's consents meanwhile


class EndAllForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """reason: of each end. after: what the answer before gave as `next`; absent = from the beginning.

    rest: after each step, in the time that the step took.
    """

    reason: RevocationReason
    after: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")] | None = None
    rest: Annotated[float, Meta(ge=0, le=MAX_REST)] = REST


class EndAllView(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far it is. ended: by this call. next: what to send as `after`; absent = all were looked at."""

    client_id: str
    ended: int
    next: str = ""


class UnknownAtp(Fault):
    """No ATP of this id."""

    kind = Kind.NOT_FOUND


class NotSuspended(Fault):
    """The ATP may act: whatever was ended it could have granted to it again at once, and nobody was told to stop."""

    kind = Kind.CONFLICT


class Active(Protocol):
    """Finds the active consents of an ATP behind a key, at most so many: `admin.ledger.atp_consents`."""

    async def __call__(self, atp: ClientId, after: bytes, limit: int) -> ActiveConsents: ...


class Paced(Protocol):
    """What keeps the pace: `admin.ledger.pace.Pace`."""

    async def wait_even(self) -> None: ...

    async def rest(self, began: float, share: float) -> None: ...


class EndAll:
    """One for all callers: two that end the same consents at once end each once.

    step: consents in one append. call: after which no further step begins.
    """

    def __init__(self, ledger: Ledger, active: Active, pace: Paced, *, step: int = STEP, call: Seconds = CALL) -> None:
        self._ledger = ledger
        self._active = active
        self._pace = pace
        self._step = step
        self._call = call

    async def go_on(self, client_id: ClientId, form: EndAllForm, act: Act) -> EndAllView:
        """End what can be ended in one call's time.

        Raises UnknownAtp, NotSuspended, OutboxBehind, VersionConflict, and the ledger's faults; what was ended before
        stays so.
        """
        until = trio.current_time() + self._call
        after, ended = bytes.fromhex(form.after or ""), 0
        while True:
            began = trio.current_time()
            await self._require_suspended(client_id)
            found = await self._active(client_id, after, self._step)
            done = await self._end(client_id, found.keys, RevokeForm(reason=form.reason), act)
            ended += done
            if found.next_key is None:
                return EndAllView(client_id, ended)
            after = found.next_key
            if done:
                await self._pace.rest(began, form.rest)
            if trio.current_time() >= until:
                return EndAllView(client_id, ended, after.hex())

    async def _require_suspended(self, client_id: ClientId) -> None:
        state = await self._ledger.subject(f"participant:{client_id}") if is_client_id(client_id) else None
        event = None if state is None else event_of(state.event)
        if not isinstance(event, ParticipantEvent) or event.participant.role is not Role.ATP:
            raise UnknownAtp("no ATP of this client_id is registered")
        if not event.participant.suspended:
            raise NotSuspended("the ATP is not suspended: suspend it first, then end its consents")

    async def _end(self, client_id: ClientId, keys: Sequence[ConsentKey], form: RevokeForm, act: Act) -> int:
        """All of a step or none; read and tried again where somebody was faster."""
        for _ in range(ATTEMPTS - 1):
            with suppress(VersionConflict):
                return await self._attempt(client_id, keys, form, act)
        return await self._attempt(client_id, keys, form, act)

    async def _attempt(self, client_id: ClientId, keys: Sequence[ConsentKey], form: RevokeForm, act: Act) -> int:
        names = [f"consent:{uuid.UUID(bytes=key)}" for key in keys]
        appends = list(_endings(await self._ledger.subjects(names), form, act))
        if appends:
            await self._pace.wait_even()  # deliveries of the suspension, and of the step before, are there
            await self._require_suspended(client_id)  # that may have taken seconds
            await self._ledger.append(appends)
        return len(appends)


def _endings(states: Sequence[SubjectState], form: RevokeForm, act: Act) -> Iterator[Append]:
    """One for each that has not ended meanwhile."""
    for state in states:
        with suppress(IllegalTransition):
            yield revoke(state, form, act=act, now=act.at)


def end_all_views(ending: EndAll, parties: Parties) -> Blueprint:
    """Blueprint with the operators' call."""
    views = Blueprint("end_all", __name__)

    @views.post("/participants/<client_id>/end-consents")
    @operation(answers={200: EndAllView}, body=EndAllForm, problems=(404, 409))
    async def end_consents(client_id: str) -> Response:
        """End consents of a suspended ATP, as many as fit into some seconds.

        Operators only. While the answer has `next`, send it as `after`. Repeating a call ends nothing twice, so that it
        takes no idempotency key. Each end is an event with the operator, the time and the reason in it.
        """
        caller = (await parties.calling()).require(Role.OPERATOR)
        form = await read_json(EndAllForm)
        return answer(await ending.go_on(ClientId(client_id), form, parties.act_of(caller)))

    return views
