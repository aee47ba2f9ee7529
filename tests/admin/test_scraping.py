"""What a scraper reads, and who may read it."""

import math
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from admin import metrics
from admin.edge import edge_app
from admin.ledger.projector import ProjectorState, ProjectorStatistics
from admin.ledger.store import Head, LedgerReader, LedgerUnavailable
from admin.scraping import Observer, metrics_views
from engine.feed.entries import Position
from engine.feed.redis_client import LinkState, LinkStatistics


class Tail:
    """As much of a ledger as is read."""

    def __init__(self) -> None:
        self.seq: int | None = 7

    async def head(self) -> Head:
        if self.seq is None:
            raise LedgerUnavailable("away")
        return Head(Position("i", self.seq), b"")


class Redis:
    """A projector and a link that say what they are told."""

    def __init__(self) -> None:
        self.projector = ProjectorStatistics(
            state=ProjectorState.FOLLOWING,
            position=Position("i", 7),
            head=Position("i", 7),
            appended=10,
            restarts=1,
            filling=None,
            fills=2,
            last_fault="",
        )
        self.link = LinkStatistics(LinkState.UP, "somewhere", 0, 1, 0, 0, "")


def value(name: str, **labels: str) -> float:
    found = metrics.REGISTRY.get_sample_value(name, labels)
    return math.nan if found is None else found


def changed(struct: Any, **members: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(struct, **members)


async def test_gauges_say_how_it_is_now() -> None:
    tail, redis = Tail(), Redis()
    observer = Observer(cast("LedgerReader", tail), lambda: redis.projector, {"commands": lambda: redis.link})
    await observer.observe()
    assert (value("ccs_ledger_up"), value("ccs_ledger_head_position")) == (1, 7)
    assert (value("ccs_projector_position"), value("ccs_redis_up", link="commands")) == (7, 1)
    assert value("ccs_projector_state", state="following") == 1
    tail.seq = None
    redis.projector = changed(redis.projector, state=ProjectorState.REDIS_AWAY, position=None)
    redis.link = changed(redis.link, state=LinkState.WAITING, losses=1)
    await observer.observe()
    assert (value("ccs_ledger_up"), value("ccs_projector_position")) == (0, 0)
    assert value("ccs_redis_up", link="commands") == 0
    assert [value("ccs_projector_state", state=state.value) for state in ProjectorState] == [0, 0, 1, 0, 0]


async def test_counts_of_others_grow_by_what_is_new() -> None:
    redis = Redis()
    observer = Observer(cast("LedgerReader", Tail()), lambda: redis.projector, {"counted": lambda: redis.link})
    names = ("ccs_projector_entries_total", "ccs_projector_restarts_total", "ccs_projector_fills_total")
    before = [value(name) for name in names]
    for _ in range(2):
        await observer.observe()
    redis.projector = changed(redis.projector, appended=15)
    redis.link = changed(redis.link, losses=3)
    await observer.observe()
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == [15, 1, 2]
    assert value("ccs_redis_losses_total", link="counted") == 3


async def nothing() -> None:
    """All is up to date."""


def client_at(address: str) -> Any:
    app = edge_app()
    app.register_blueprint(metrics_views(nothing))
    return app.test_client(), {"client": (address, 40_000)}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
async def test_a_scraper_on_this_machine_gets_them_as_prometheus_text(address: str) -> None:
    client, scope = client_at(address)
    response = await client.get("/metrics", scope_base=scope)
    assert response.status_code == 200
    assert response.content_type == metrics.CONTENT_TYPE
    families = {family.name for family in text_string_to_metric_families(await response.get_data(as_text=True))}
    declared = {m._name for m in vars(metrics).values() if hasattr(m, "_labelnames")}
    assert declared <= families
    assert "process_resident_memory_bytes" in families


@pytest.mark.parametrize("address", ["10.0.0.1", "192.0.2.7", "2001:db8::1", "<local>", ""])
async def test_nobody_else_learns_that_they_are_there(address: str) -> None:
    client, scope = client_at(address)
    response = await client.get("/metrics", scope_base=scope)
    nowhere = await client.get("/nowhere", scope_base=scope)
    assert response.status_code == 404
    assert await response.get_data() == await nowhere.get_data()


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "Via"])
async def test_what_came_through_a_proxy_is_not_of_this_machine(header: str) -> None:
    client, scope = client_at("127.0.0.1")
    response = await client.get("/metrics", scope_base=scope, headers={header: "for=127.0.0.1"})
    assert response.status_code == 404
