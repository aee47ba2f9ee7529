"""The switch between going on and halting: the operators set it, everybody sees it, nodes hear of it."""

import msgspec
import pytest

from admin.ledger.events import PolicyChanged, event_of
from engine.clock import Seconds
from engine.consent.records import POLICY_KEY, OnSilence, PolicyRecord
from engine.feed.entries import EntryKind
from tests.support.admin_service import Site

HALT = {"on_silence": "halt", "outage_cap": 3_600}


async def test_before_anybody_sets_it_the_defaults_hold(site: Site) -> None:
    status, shown = await site.call("edp-1", "GET", "/policy")
    assert (status, shown["on_silence"], shown["outage_cap"], shown["policy_version"]) == (200, "continue", 86_400, 0)


async def test_an_operator_changes_it_and_nodes_hear_of_it(site: Site) -> None:
    status, changed = await site.call("operator-1", "PUT", "/policy", HALT)
    assert (status, changed["on_silence"], changed["outage_cap"], changed["policy_version"]) == (200, "halt", 3_600, 1)
    assert await site.call("atp-1", "GET", "/policy") == (200, changed)
    (_, record), *_ = await site.ledger.records((int(EntryKind.POLICY), b""), 1)
    assert (record.kind, record.key) == (EntryKind.POLICY, POLICY_KEY)
    assert msgspec.msgpack.decode(record.record, type=PolicyRecord) == PolicyRecord(OnSilence.HALT, Seconds(3600.0))
    (event,) = await site.ledger.events(changed["position"]["seq"] - 1, 1)
    written = event_of(event)
    assert isinstance(written, PolicyChanged)
    assert written.act.actor == "operator-1"


async def test_a_cap_of_zero_may_be_set_and_back(site: Site) -> None:
    for cap in (0, 86_400):
        status, changed = await site.call("operator-1", "PUT", "/policy", {"on_silence": "continue", "outage_cap": cap})
        assert (status, changed["outage_cap"]) == (200, cap)


async def test_a_repeated_key_changes_nothing_more(site: Site) -> None:
    first = await site.call("operator-1", "PUT", "/policy", HALT, key="policy-key")
    await site.call("operator-1", "PUT", "/policy", {"on_silence": "continue", "outage_cap": 60})
    assert await site.call("operator-1", "PUT", "/policy", HALT, key="policy-key") == first
    assert (await site.call("edp-1", "GET", "/policy"))[1]["on_silence"] == "continue"


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"on_silence": "halt"},
        {"on_silence": "never", "outage_cap": 1},
        {"on_silence": "halt", "outage_cap": -1},
        {"on_silence": "halt", "outage_cap": 604_801},
        {"on_silence": "halt", "outage_cap": 1.5},
        {"on_silence": "halt", "outage_cap": 1, "more": True},
    ],
)
async def test_a_bad_form_is_refused_and_changes_nothing(site: Site, form: dict[str, object]) -> None:
    status, problem = await site.call("operator-1", "PUT", "/policy", form)
    assert (status, problem["code"]) == (400, "invalid_fields")
    assert (await site.call("edp-1", "GET", "/policy"))[1]["policy_version"] == 0


@pytest.mark.parametrize("client_id", ["atp-1", "edp-1", "node-1"])
async def test_only_operators_change_it(site: Site, client_id: str) -> None:
    status, problem = await site.call(client_id, "PUT", "/policy", HALT)
    assert (status, problem["code"]) == (403, "wrong_role")


async def test_a_stranger_does_not_see_it(site: Site) -> None:
    assert (await site.call("stranger", "GET", "/policy"))[0] == 401
