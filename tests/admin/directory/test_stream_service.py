"""How a receiver's streams are found among all there ever were."""

from pathlib import Path
from typing import Any

import pytest

from admin.directory.stream_service import Streams
from admin.directory.streams import Wanted, stream_id_of
from admin.ledger.events import Initiator
from engine.consent.records import Certificate, ClientId, ParticipantRecord, Role, Thumbprint
from engine.pusher.streams import DeliveryMethod
from tests.support.outboxes import FAR, House, house_in

CREATED = 20
LOOKS = 12  # of each kind: out and back by the logarithm of twenty
PUSH = Wanted(delivery=DeliveryMethod.PUSH, endpoint_url="https://events.edp1.example/ccs")
EDP = ParticipantRecord(
    ClientId("edp-1"), Role.EDP, suspended=False, certificates=(Certificate(Thumbprint(b"t" * 32), FAR),)
)


async def test_a_receiver_that_made_and_deleted_many_streams_costs_a_few_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house_in(tmp_path) as house:
        streams = Streams(house.ledger, house.outbox, house.clock.now, lambda: "challenge", private_allowed=True)
        looks = counted(house, monkeypatch)
        poll = await streams.create(EDP, Wanted(), house.act(Initiator.EDP, "edp-1"))
        for number in range(CREATED):
            act = house.act(Initiator.EDP, "edp-1")
            push = await streams.create(EDP, PUSH, act)
            assert push.stream_id == stream_id_of(EDP.client_id, DeliveryMethod.PUSH, number)
            assert await streams.living(EDP.client_id) == [push, poll]
            await streams.delete(EDP.client_id, push.stream_id, act)
            assert await streams.living(EDP.client_id) == [poll]
            house.clock.time += 60
        assert await streams.owned(ClientId("edp-2")) == []
        looks.clear()
        assert (await streams.owned(EDP.client_id))[1] == poll
        assert 0 < len(looks) <= LOOKS + 2


def counted(house: House, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects that are looked up; nobody may walk through all records."""
    looks: list[str] = []
    subject = house.ledger.subject

    async def noting(name: str) -> Any:
        looks.append(name)
        return await subject(name)

    async def walked(*_: object) -> None:
        raise AssertionError("all records were walked through")

    monkeypatch.setattr(house.ledger, "subject", noting)
    monkeypatch.setattr(house.ledger, "records", walked)
    return looks
