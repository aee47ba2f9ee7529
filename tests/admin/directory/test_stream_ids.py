"""What is no stream's id is told from an unknown one by nobody, and never reaches the database."""

from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from admin.directory.stream_service import Streams, Verifications
from admin.directory.streams import UnknownStream, is_stream_id, stream_id_of
from admin.ledger.events import Act, Initiator, Route
from admin.ledger.store import Ledger
from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.pusher.streams import DeliveryMethod, StreamStatus

EDP = ClientId("edp-7")
ACT = Act(Initiator.EDP, EDP, Route.API, UnixTime(1_795_341_600))
UNKNOWN = stream_id_of(EDP, DeliveryMethod.POLL, 9)
BAD = ["\0", "\0" * 36, "", "x", UNKNOWN.upper(), UNKNOWN + "0", UNKNOWN + "\n", "\ud800"]


class Strict:
    """A ledger as PostgreSQL is: it knows no stream, and what is no id breaks it."""

    async def subject(self, subject: str) -> None:
        assert subject == f"stream:{UNKNOWN}"


@pytest.fixture
def streams() -> Streams:
    ledger, verifications = cast("Ledger", Strict()), cast("Verifications", None)
    return Streams(ledger, verifications, lambda: ACT.at, lambda: "a challenge", private_allowed=True)


CALLS: list[Callable[[Streams, str], Awaitable[object]]] = [
    lambda streams, name: streams.find(EDP, name),
    lambda streams, name: streams.verify(EDP, name, None, ACT),
    lambda streams, name: streams.confirm(EDP, name, "a challenge", ACT),
    lambda streams, name: streams.set_status(EDP, name, StreamStatus.PAUSED, "", ACT),
    lambda streams, name: streams.delete(EDP, name, ACT),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_id_is_answered_as_an_unknown_one(
    call: Callable[[Streams, str], Awaitable[object]], name: str, streams: Streams
) -> None:
    texts = []
    for each in (UNKNOWN, name):
        with pytest.raises(UnknownStream) as refused:
            await call(streams, each)
        texts.append((refused.value.text, refused.value.detail))
    assert texts[0] == texts[1]


def test_every_stream_has_an_id_of_this_form() -> None:
    assert is_stream_id(UNKNOWN)
    assert not any(is_stream_id(name) for name in BAD)
