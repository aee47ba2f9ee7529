"""What is no client_id is told from an unknown one by nobody, and never reaches the database."""

from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from admin.callers import Callers
from admin.consents.end_all import Active, EndAll, EndAllForm, Paced, UnknownAtp
from admin.directory.participants import UnknownParticipant
from admin.directory.service import Directory
from admin.ledger.events import Act, Initiator, Route
from admin.ledger.store import Idempotency, Ledger
from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.errors import Fault

ACT = Act(Initiator.OPERATOR, ClientId("operator-1"), Route.API, UnixTime(1_795_341_600))
KEY = Idempotency(ClientId("operator-1"), "a-key-of-ours", bytes(32))
UNKNOWN = "atp-9"
BAD = ["\0", "atp-1\0", "", "ATP-1", UNKNOWN + "\n", "x" * 41, "\ud800"]


class Strict:
    """A ledger as PostgreSQL is: it knows no participant, and what is no id breaks it."""

    async def subject(self, subject: str) -> None:
        assert subject == f"participant:{UNKNOWN}"

    async def replayed(self, _key: Idempotency) -> None:
        return None


LEDGER = cast("Ledger", Strict())
DIRECTORY = Directory(LEDGER, cast("Callers", None))
ENDING = EndAll(LEDGER, cast("Active", None), cast("Paced", None))

CALLS: list[Callable[[ClientId], Awaitable[object]]] = [
    DIRECTORY.find,
    lambda name: DIRECTORY.suspend(name, ACT, KEY),
    lambda name: DIRECTORY.reinstate(name, ACT, KEY),
    lambda name: ENDING.go_on(name, EndAllForm(reason="security"), ACT),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_client_id_is_answered_as_an_unknown_one(
    call: Callable[[ClientId], Awaitable[object]], name: str
) -> None:
    told: list[tuple[type[Fault], str, str]] = []
    for each in (UNKNOWN, name):
        with pytest.raises((UnknownParticipant, UnknownAtp)) as refused:
            await call(ClientId(each))
        told.append((type(refused.value), refused.value.text, refused.value.detail))
    assert told[0] == told[1]
