"""What nodes do while they are cut off: the operators' switch between going on and halting, and the cap.

The values are events of the ledger like everything else, and reach nodes by the feed. A node that is cut off keeps
those it had heard: change them before the outage that they are for.
"""

from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from admin.callers import Caller, Callers
from admin.edge import answer, json_text, read_json
from admin.ledger.events import Act, Initiator, PolicyChanged, Route, append_of, event_of, subject_of
from admin.ledger.store import Append, Ledger, SubjectState
from admin.openapi import operation
from admin.writing import LostWrite, Place, idempotency, place, write
from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, OnSilence, PolicyRecord, Role

LONGEST_CAP: Final = 7 * 86_400  # seconds; the source proposes a day, and a week's revocations unheard is a choice
SilenceName = Literal["continue", "halt"]
Cap = Annotated[int, Meta(ge=0, le=LONGEST_CAP)]

_ON_SILENCE: Final[dict[SilenceName, OnSilence]] = {"continue": OnSilence.CONTINUE, "halt": OnSilence.HALT}
_NAMES: Final[dict[OnSilence, SilenceName]] = {value: name for name, value in _ON_SILENCE.items()}
_SUBJECT: Final = subject_of(
    PolicyChanged(PolicyRecord(), Act(Initiator.SYSTEM, ClientId(""), Route.SYSTEM, UnixTime(0)))
)


class PolicyForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The values that hold from now on. outage_cap: seconds after which a node cut off answers nobody; 0 = at once."""

    on_silence: SilenceName
    outage_cap: Cap


class PolicyView(msgspec.Struct, frozen=True):
    """The values as they stand. policy_version: 0 = never set, these are the defaults; position: of the ledger then."""

    on_silence: SilenceName
    outage_cap: Cap
    policy_version: int
    position: Place


def policy_views(ledger: Ledger, callers: Callers, now: Callable[[], UnixTime]) -> Blueprint:
    """Blueprint with the policy's calls."""
    views = Blueprint("policy", __name__)

    @views.get("/policy")
    @operation(answers={200: PolicyView})
    async def show() -> Response:
        """Show what nodes do while they are cut off.

        For every registered participant: an EDP's own rule for outages follows it.
        """
        await callers.authenticate(request.scope)
        state = await ledger.subject(_SUBJECT)
        if state is None:
            return answer(_view(PolicyRecord(), 0, place((await ledger.head()).position)))
        return answer(_view(_policy_of(event_of(state.event)), state.version, place(state.event.position)))

    @views.put("/policy")
    @operation(answers={200: PolicyView}, body=PolicyForm, problems=(409,), keyed=True)
    async def change() -> Response:
        """Change what nodes do while they are cut off.

        Operators only. `halt`, or a cap of zero, lets no node answer that is not current. Nodes follow within a second;
        one that is cut off already does not hear of it.
        """
        caller = (await callers.authenticate(request.scope)).require(Role.OPERATOR)
        offered = request.headers.get("Idempotency-Key")
        key = idempotency(caller.client_id, offered, request.method, request.path, await json_text())
        policy = _record(await read_json(PolicyForm))

        def command(state: SubjectState | None) -> Append:
            return append_of(PolicyChanged(policy, _act(caller, now())), state.version if state else 0)

        written = await write(ledger, _SUBJECT, command, key)
        return answer(_view(_policy_of(written.event), written.receipt.version, place(written.receipt.position)))

    return views


def _act(caller: Caller, at: UnixTime) -> Act:
    return Act(Initiator.OPERATOR, caller.client_id, Route.API, at)


def _record(form: PolicyForm) -> PolicyRecord:
    return PolicyRecord(_ON_SILENCE[form.on_silence], Seconds(float(form.outage_cap)))


def _policy_of(event: object) -> PolicyRecord:
    if not isinstance(event, PolicyChanged):
        raise LostWrite("the write under this key is not of the policy")
    return event.policy


def _view(policy: PolicyRecord, version: int, at: Place) -> PolicyView:
    return PolicyView(_NAMES[policy.on_silence], int(policy.outage_cap), version, at)
