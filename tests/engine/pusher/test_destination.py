"""What may go to a receiver's address, as its stream stands."""

import pytest

from engine.clock import UnixTime
from engine.consent.records import ClientId, Role
from engine.events.facts import Fact, StreamFact, VerificationFact
from engine.pusher.destination import Destination
from engine.pusher.service import Receiver
from engine.pusher.streams import StreamRecord, StreamStatus
from tests.support.deliveries import AT, delivery, ended
from tests.support.push_service import push_stream_of

NOW = UnixTime(AT)
OWN = "stream-edp-1"
END = ended(1, "edp-1")
PAUSED = StreamFact(OWN, "paused", NOW)
ASKED_FOR = VerificationFact(OWN, NOW, state="round-1")
OLDER, NEWEST = (VerificationFact(OWN, NOW, challenge=word) for word in ("older", "newest"))
OF_ANOTHER = VerificationFact("stream-of-before", NOW, state="round-1")


def taken(*streams: StreamRecord) -> list[Fact]:
    receiver = Receiver(ClientId("edp-1"), Role.EDP, False, (), streams, 0)  # noqa: FBT003 - suspended
    destination = Destination(receiver)
    facts = (END, PAUSED, ASKED_FOR, OLDER, NEWEST, OF_ANOTHER)
    return [fact for number, fact in enumerate(facts) if destination.takes(delivery(number, fact))]


def stream(status: StreamStatus = StreamStatus.ENABLED, **fields: object) -> StreamRecord:
    return push_stream_of("edp-1", Role.EDP, status=status, **fields)


def test_a_stream_that_is_enabled_is_told_all_but_challenges_and_what_is_about_another_stream() -> None:
    """A challenge was for an address to be confirmed: this one may be another by now."""
    assert taken(stream()) == [END, PAUSED, ASKED_FOR]


@pytest.mark.parametrize("status", [StreamStatus.PAUSED, StreamStatus.DISABLED])
def test_a_stream_on_hold_is_told_of_itself_alone(status: StreamStatus) -> None:
    assert taken(stream(status)) == [PAUSED, ASKED_FOR]


def test_an_address_that_is_not_confirmed_is_sent_its_newest_challenge_alone() -> None:
    assert taken(stream(StreamStatus.PAUSED, challenge="newest")) == [NEWEST]


def test_nothing_goes_where_there_is_no_stream_or_no_address_that_is_called() -> None:
    assert taken() == taken(stream(deleted=True)) == taken(stream(endpoint_url="http://edp-1.example/")) == []
