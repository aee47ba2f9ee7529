"""What operators see of receivers and do to their streams, over real mutual TLS."""

import io

import trio
from rich.console import Console

from admin.cli.receivers import show
from engine.events.facts import StreamFact
from engine.pusher.service import Fate, Outcome
from tests.admin.directory.test_stream_views import NOBODYS, POLL, confirmed, created, refused, told
from tests.support.admin_service import PATIENCE, Site


async def receivers(site: Site, streams: int) -> list[dict[str, object]]:
    """All receivers, once the outbox knows so many streams."""
    with trio.fail_after(PATIENCE):
        while True:
            status, view = await site.call("operator-1", "GET", "/receivers")
            assert status == 200, view
            if sum(len(one["streams"]) for one in view["receivers"]) == streams:
                found: list[dict[str, object]] = view["receivers"]
                return found
            await trio.sleep(0.02)


async def test_operators_see_who_is_owed_what(site: Site) -> None:
    assert await receivers(site, 0) == []
    push, poll = await confirmed(site), await created(site, POLL)
    await told(site, 2)
    lease = await site.outbox.lease("test", None)
    framework = await site.outbox.unsigned(0, 10, 0)  # type: ignore[arg-type]  # seconds
    await site.outbox.tell(lease.epoch, [Outcome(one.number, Fate.DONE, 1, 0.0) for one in framework])
    await site.granted(1)
    await site.granted(2)
    with trio.fail_after(PATIENCE):
        while True:
            found = await site.outbox.unsigned(framework[-1].number, 10, 0)  # type: ignore[arg-type]  # seconds
            if len(found) == 2:
                break
            await trio.sleep(0.02)
    first, second = found
    outcomes = [
        Outcome(first.number, Fate.PARKED, 1, first.committed_at, error="invalid_request"),
        Outcome(second.number, Fate.AGAIN, 3, second.committed_at, next_at=second.committed_at + 60, error="http_503"),
    ]
    await site.outbox.tell(lease.epoch, outcomes)
    (one,) = await receivers(site, 2)
    assert (one["client_id"], one["role"], one["suspended"], one["last_seq"]) == ("edp-1", "edp", False, second.seq)
    assert (one["unsent"], one["parked"], one["unacknowledged"], one["error"]) == (1, 1, 2, "http_503")
    assert str(one["oldest_unsent"]).endswith("Z")
    ways = {stream["stream_id"]: stream["method"] for stream in one["streams"]}  # type: ignore[attr-defined]  # a list
    assert ways == {push["stream_id"]: "push", poll["stream_id"]: "poll"}
    out = io.StringIO()
    show({"receivers": [one]}, Console(file=out, width=250))
    for word in ("edp-1", "http_503", push["stream_id"], "https://events.edp1.example/ccs", "enabled"):
        assert word in out.getvalue()


async def test_an_operators_pause_is_told_and_only_an_operator_ends_it(site: Site) -> None:
    stream_id = (await confirmed(site))["stream_id"]
    await created(site, POLL)
    path = f"/receivers/streams/{stream_id}"
    status, paused = await site.call("operator-1", "POST", f"{path}/pause", {"reason": "flooding"})
    assert (status, paused["client_id"]) == (200, "edp-1")
    assert (paused["stream"]["status"], paused["stream"]["held"], paused["stream"]["reason"]) == (
        "paused", True, "flooding",
    )  # fmt: skip
    again = await site.call("operator-1", "POST", f"{path}/pause", {"reason": "flooding"})
    assert refused(again) == (409, "no_change")
    enable = {"stream_id": stream_id, "status": "enabled"}
    assert refused(await site.call("edp-1", "POST", "/ssf/status", enable)) == (403, "stream_held")
    assert refused(await site.call("edp-1", "DELETE", f"/ssf/streams?stream_id={stream_id}")) == (403, "stream_held")
    shown = await site.call("edp-1", "GET", f"/ssf/status?stream_id={stream_id}")
    assert shown[1] == {"stream_id": stream_id, "status": "paused", "reason": "flooding"}
    status, enabled = await site.call("operator-1", "POST", f"{path}/enable")
    assert (status, enabled["stream"]["status"], enabled["stream"]["held"]) == (200, "enabled", False)
    assert refused(await site.call("operator-1", "POST", f"{path}/enable")) == (409, "no_change")
    facts = [one.fact for one in await told(site, 4) if isinstance(one.fact, StreamFact)]
    assert [(fact.status, fact.reason) for fact in facts[-2:]] == [("paused", "flooding"), ("enabled", None)]


async def test_only_operators_look_and_act(site: Site) -> None:
    stream_id = (await created(site, POLL))["stream_id"]
    for method, path, body in (
        ("GET", "/receivers", None),
        ("POST", f"/receivers/streams/{stream_id}/pause", {"reason": "x"}),
        ("POST", f"/receivers/streams/{stream_id}/enable", None),
    ):
        for client_id in ("edp-1", "atp-1", "node-1"):
            assert refused(await site.call(client_id, method, path, body)) == (403, "wrong_role")


async def test_a_stream_that_is_not_there_and_a_reason_in_words_are_refused(site: Site) -> None:
    path = f"/receivers/streams/{NOBODYS}"
    missing = await site.call("operator-1", "POST", f"{path}/pause", {"reason": "x"})
    assert refused(missing) == (404, "unknown_stream")
    assert refused(await site.call("operator-1", "POST", f"{path}/enable")) == (404, "unknown_stream")
    words = await site.call("operator-1", "POST", f"{path}/pause", {"reason": "They flood us!"})
    assert refused(words) == (400, "invalid_fields")


def test_nobody_who_receives_is_told_in_words() -> None:
    out = io.StringIO()
    show({"receivers": []}, Console(file=out))
    assert out.getvalue() == "No receiver has a stream.\n"
