"""Each participant has its own number of connections, counted by what is open now."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import UnixTime
from engine.consent.records import Role, Thumbprint
from engine.listener.connection_limits import MAX_STRANGERS, TOO_MANY, ConnectionLimits
from engine.listener.tls import Peer
from engine.replica.reader import Replica
from tests.support.endpoint import NOW, Node
from tests.support.pki import Pki

NOWHERE = Path("there/is/no/replica")


def stranger(number: int) -> Peer:
    return Peer(Thumbprint(b"%032d" % number), UnixTime(2_000_000_000))


@pytest.fixture
def node(tmp_path: Path, pki: Pki, published: bytes) -> Iterator[Node]:
    node = Node(tmp_path, pki, published, NOW)
    node.open()
    yield node
    node.store.close()


def test_a_participant_has_its_number_and_places_come_back(node: Node) -> None:
    node.register("edp-1", Role.EDP, max_connections=3)
    node.register("edp-2", Role.EDP, max_connections=1)
    limits = ConnectionLimits(cast("Replica", node.replica))
    first, second = node.peer("edp-1"), node.peer("edp-2")
    assert [limits.enter(first) for _ in range(4)] == [None, None, None, TOO_MANY]
    assert limits.enter(second) is None
    limits.leave(first)
    assert [limits.enter(first) for _ in range(2)] == [None, TOO_MANY]


def test_a_changed_number_counts_at_once_for_newcomers(node: Node) -> None:
    node.register("edp-1", Role.EDP, max_connections=1)
    limits, first = ConnectionLimits(cast("Replica", node.replica)), node.peer("edp-1")
    assert [limits.enter(first) for _ in range(2)] == [None, TOO_MANY]
    node.register("edp-1", Role.EDP, max_connections=2)
    assert [limits.enter(first) for _ in range(2)] == [None, TOO_MANY]


def test_a_certificate_that_changes_hands_is_counted_where_it_came_in(node: Node) -> None:
    limits, first = ConnectionLimits(cast("Replica", node.replica)), node.peer("edp-1")
    assert limits.enter(first) is None  # a stranger still
    node.register("edp-1", Role.EDP, max_connections=5)
    assert limits.enter(first) is None
    limits.leave(first)
    limits.leave(first)
    assert not limits._by_client


def test_strangers_share_one_number_and_places_come_back() -> None:
    limits = ConnectionLimits(Replica(NOWHERE, map_size=1 << 20))
    for number in range(MAX_STRANGERS):
        assert limits.enter(stranger(number)) is None
    assert limits.enter(stranger(1)) == TOO_MANY
    limits.leave(stranger(7))
    assert limits.enter(stranger(1)) is None
    assert limits.enter(stranger(7)) == TOO_MANY


def test_the_refusal_says_when_to_come_back_and_closes() -> None:
    assert (TOO_MANY.status, TOO_MANY.close) == (429, True)
    assert (b"Retry-After", b"1") in TOO_MANY.headers
    assert msgspec.json.decode(TOO_MANY.body) == {"error": "temporarily_unavailable"}


@given(st.lists(st.integers(0, 5), max_size=60))
def test_whoever_left_is_forgotten(numbers: list[int]) -> None:
    limits = ConnectionLimits(Replica(NOWHERE, map_size=1 << 20))
    for number in numbers:
        assert limits.enter(stranger(number)) is None
    for number in numbers:
        limits.leave(stranger(number))
    assert not limits._by_client
    assert not limits._by_certificate
