"""Poll delivery (RFC 8936) over real mutual TLS, from the real outbox of a real ledger."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from admin.directory import poll_views
from engine.clock import Seconds
from engine.consent.records import ClientId
from engine.pusher.service import Delivery, Signed
from tests.support.admin_service import PATIENCE, Reply, Site

NOW = {"returnImmediately": True}
UNANSWERED = poll_views.CEILING - 5.0  # seconds: sooner than a poll that nothing comes to is answered


class Signer:
    """Signs what the outbox holds, as the pusher does: here the bytes only have to be told apart."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._epoch: int | None = None

    async def sign(self, count: int) -> list[Delivery]:
        """Sign all, once there are so many."""
        outbox = self._site.outbox
        lease = await outbox.lease("test", self._epoch)
        self._epoch = lease.epoch
        found: list[Delivery] = []

        async def there() -> bool:
            found[:] = await outbox.unsigned(0, 500, Seconds(0.0))
            return len(found) >= count

        await eventually(there)
        await outbox.keep(lease.epoch, [Signed(one.number, f"h.p.{one.jti}".encode()) for one in found])
        return found


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            if await is_so():
                return
            await trio.sleep(0.02)


async def poll_stream(site: Site, client_id: str = "edp-1") -> str:
    status, stream = await site.call(client_id, "POST", "/ssf/streams", {})
    assert status == 201, stream
    return f"/ssf/poll/{stream['stream_id']}"


async def polled(site: Site, path: str, body: dict[str, Any], client_id: str = "edp-1", **settings: Any) -> Reply:
    return await site.call(client_id, "POST", path, body, **settings)


def sets(found: list[Delivery], client_id: str = "edp-1") -> dict[str, str]:
    return {one.jti: f"h.p.{one.jti}" for one in found if one.client_id == ClientId(client_id)}


async def test_events_come_again_until_they_are_acknowledged(site: Site) -> None:
    path = await poll_stream(site)
    assert await polled(site, path, NOW) == (200, {"sets": {}, "moreAvailable": False})
    await site.granted(1)
    await site.granted(2)
    both = sets(await Signer(site).sign(2))
    for _ in range(2):
        assert await polled(site, path, NOW) == (200, {"sets": both, "moreAvailable": False})
    first, second = both
    status, found = await polled(site, path, {**NOW, "ack": [first]})
    assert (status, found["sets"]) == (200, {second: both[second]})
    assert await polled(site, path, {**NOW, "ack": [first, second, "c1.never-sent"]}) == (
        200,
        {"sets": {}, "moreAvailable": False},
    )


async def test_a_poll_gets_as_many_as_it_asked_for_and_is_told_of_more(site: Site) -> None:
    path = await poll_stream(site)
    for number in range(3):
        await site.granted(number + 1)
    oldest, *rest = sets(await Signer(site).sign(3))
    status, found = await polled(site, path, {**NOW, "maxEvents": 1})
    assert (status, list(found["sets"]), found["moreAvailable"]) == (200, [oldest], True)
    status, found = await polled(site, path, {**NOW, "maxEvents": 2, "ack": [oldest]})
    assert (status, set(found["sets"]), found["moreAvailable"]) == (200, set(rest), False)


async def test_an_acknowledgement_alone_brings_nothing_and_does_not_wait(site: Site) -> None:
    path = await poll_stream(site)
    await site.granted(1)
    (jti,) = sets(await Signer(site).sign(1))
    with trio.fail_after(UNANSWERED):
        assert await polled(site, path, {"maxEvents": 0, "ack": [jti]}) == (200, {"sets": {}, "moreAvailable": False})
    assert (await polled(site, path, NOW))[1]["sets"] == {}


async def test_what_a_receiver_refuses_does_not_come_again(site: Site) -> None:
    path = await poll_stream(site)
    await site.granted(1)
    await site.granted(2)
    bad, good = sets(await Signer(site).sign(2))
    errors = {**NOW, "setErrs": {bad: {"err": "invalid_request", "description": "no JSON"}}}
    assert (await polled(site, path, errors))[0] == 400  # in which language?
    assert set((await polled(site, path, NOW))[1]["sets"]) == {bad, good}
    status, found = await polled(site, path, errors, headers={"Content-Language": "en"})
    assert (status, set(found["sets"])) == (200, {good})


async def test_what_is_acknowledged_is_taken_whatever_is_said_of_an_event_that_is_refused(site: Site) -> None:
    path = await poll_stream(site)
    await site.granted(1)
    await site.granted(2)
    bad, good = sets(await Signer(site).sign(2))
    words = "Traceback:\n\tline 1\r\n\x00" + "d" * 2_000
    body = {**NOW, "ack": [good], "setErrs": {bad: {"err": "invalid_request", "description": words}}}
    answer = await polled(site, path, body, headers={"Content-Language": "en"})
    assert answer == (200, {"sets": {}, "moreAvailable": False})


async def test_a_waiting_poll_is_answered_as_soon_as_there_is_something(site: Site) -> None:
    path = await poll_stream(site)
    async with one_that_waits(site, path) as replies:
        assert not replies
        await site.granted(1)
        found = sets(await Signer(site).sign(1))
    assert replies == [(200, {"sets": found, "moreAvailable": False})]


async def waiting(site: Site, path: str) -> None:
    """Return once a poll of this stream waits."""

    async def refused() -> bool:
        status, problem = await polled(site, path, NOW)
        return (status, problem.get("code")) == (409, "poll_outstanding")

    await eventually(refused)


async def long_poll(site: Site, path: str) -> Reply:
    """A poll that waits; anew where it met one of those that look whether it waits."""
    while True:
        reply = await polled(site, path, {}, timeout=40)
        if reply[0] != 409:
            return reply


@asynccontextmanager
async def one_that_waits(site: Site, path: str) -> AsyncIterator[list[Reply]]:
    """A poll that waits when the block begins; the reply to it, after the block. Fails where nothing came for it."""
    replies: list[Reply] = []

    async def wait() -> None:
        replies.append(await long_poll(site, path))

    with trio.fail_after(UNANSWERED):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await waiting(site, path)
            yield replies


async def test_a_second_poll_is_refused_and_an_acknowledgement_beside_it_is_not(site: Site) -> None:
    path, other = await poll_stream(site), await poll_stream(site, "edp-2")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(long_poll, site, path)
        await waiting(site, path)
        assert (await polled(site, path, {"maxEvents": 0, "ack": ["c1.x"]}))[0] == 200
        assert (await polled(site, other, NOW, "edp-2"))[0] == 200
        nursery.cancel_scope.cancel()

    async def taken() -> bool:
        return (await polled(site, path, NOW))[0] == 200

    await eventually(taken)  # whoever hangs up waits no more, and may ask again


async def test_a_poll_gives_only_its_own_receivers_events(site: Site) -> None:
    edp, atp = await poll_stream(site), await poll_stream(site, "atp-1")
    await site.granted(1)
    await site.granted(2, atp="atp-2")
    found = await Signer(site).sign(3)
    assert (await polled(site, edp, NOW))[1]["sets"] == sets(found)
    assert (await polled(site, atp, NOW, "atp-1"))[1]["sets"] == sets(found, "atp-1")
    assert len(sets(found)) == 2
    assert len(sets(found, "atp-1")) == 1
    theirs = list(sets(found, "atp-1"))
    await polled(site, edp, {**NOW, "ack": theirs})
    assert set((await polled(site, atp, NOW, "atp-1"))[1]["sets"]) == set(theirs)


async def test_a_paused_stream_holds_its_events_and_takes_acknowledgements(site: Site) -> None:
    path = await poll_stream(site)
    status = {"stream_id": path.removeprefix("/ssf/poll/"), "status": "paused"}
    await site.granted(1)
    (jti,) = sets(await Signer(site).sign(1))
    await site.call("edp-1", "POST", "/ssf/status", status)
    assert (await polled(site, path, NOW))[1]["sets"] == {}
    await site.granted(2)
    held = sets(await Signer(site).sign(1))
    assert (await polled(site, path, {**NOW, "ack": [jti]}))[1]["sets"] == {}
    await site.call("edp-1", "POST", "/ssf/status", {**status, "status": "enabled"})
    assert (await polled(site, path, NOW))[1]["sets"] == held


async def test_a_stream_that_an_operator_pauses_says_so_before_anything_that_waits(site: Site) -> None:
    path = await poll_stream(site)
    stream_id, signer = path.removeprefix("/ssf/poll/"), Signer(site)
    await site.granted(1)
    (held,) = sets(await signer.sign(1))
    reason = {"reason": "flooding"}
    assert (await site.call("operator-1", "POST", f"/receivers/streams/{stream_id}/pause", reason))[0] == 200
    told = sets(await signer.sign(1))
    answer = {"sets": told, "moreAvailable": False}
    assert await polled(site, path, NOW) == (200, answer)
    assert await polled(site, path, NOW) == (200, answer), "until it is acknowledged"
    assert (await polled(site, path, {**NOW, "ack": list(told)}))[1]["sets"] == {}
    assert (await site.call("operator-1", "POST", f"/receivers/streams/{stream_id}/enable"))[0] == 200
    enabled = sets(await signer.sign(1))
    assert set((await polled(site, path, NOW))[1]["sets"]) == {held, *enabled}


async def test_a_stream_that_is_paused_while_a_poll_waits_gives_only_what_is_about_itself(site: Site) -> None:
    """An event comes in the same moment as the word of the pause, which alone is handed out."""
    path = await poll_stream(site)
    stream_id, signer = path.removeprefix("/ssf/poll/"), Signer(site)
    async with one_that_waits(site, path) as replies:
        await site.granted(1)
        reason = {"reason": "flooding"}
        assert (await site.call("operator-1", "POST", f"/receivers/streams/{stream_id}/pause", reason))[0] == 200
        found = await signer.sign(2)
    told = {one.jti: f"h.p.{one.jti}" for one in found if one.seq == 0}
    assert len(told) == 1
    assert replies == [(200, {"sets": told, "moreAvailable": False})]


async def test_a_receiver_that_is_suspended_while_its_poll_waits_gets_nothing(site: Site) -> None:
    path = await poll_stream(site)
    async with one_that_waits(site, path) as replies:
        await site.granted(1)
        await site.call("operator-1", "POST", "/participants/edp-1/suspend")
        held = sets(await Signer(site).sign(1))
    [(status, problem)] = replies
    assert (status, problem["code"]) == (403, "suspended_caller")
    await site.call("operator-1", "POST", "/participants/edp-1/reinstate")
    assert (await polled(site, path, NOW))[1]["sets"] == held


async def test_a_push_stream_has_no_poll_endpoint(site: Site) -> None:
    push = {"delivery": {"method": "urn:ietf:rfc:8935", "endpoint_url": "https://events.edp1.example/ccs"}}
    stream_id = (await site.call("edp-1", "POST", "/ssf/streams", push))[1]["stream_id"]
    status, problem = await polled(site, f"/ssf/poll/{stream_id}", NOW)
    assert (status, problem["code"]) == (404, "unknown_stream")


BAD_POLLS: list[dict[str, Any]] = [
    {"maxEvents": -1},
    {"maxEvents": "many"},
    {"returnImmediately": "yes"},
    {"ack": "c1.x"},
    {"ack": ["x" * 129]},
    {"ack": [f"c1.{number}" for number in range(1_001)]},
    {"setErrs": ["c1.x"]},
    {"setErrs": {"c1.x": "bad"}},
    {"setErrs": {"c1.x": {"description": "no code"}}},
    {"setErrs": {"c1.\x00": {"err": "invalid_request"}}},
    {"max_events": 1},
]


async def test_a_bad_poll_is_refused_and_takes_nothing(site: Site) -> None:
    path = await poll_stream(site)
    await site.granted(1)
    (jti,) = sets(await Signer(site).sign(1))
    for bad in BAD_POLLS:
        body = {**NOW, "ack": [jti], **bad}
        status, problem = await polled(site, path, body, headers={"Content-Language": "en"})
        assert (status, problem["code"]) == (400, "invalid_fields"), bad
    assert set((await polled(site, path, NOW))[1]["sets"]) == {jti}


async def test_an_error_may_tell_of_a_thousand_events(site: Site) -> None:
    path = await poll_stream(site)
    words = {"err": "invalid_request", "description": "d" * 100}
    errors = {f"c1.{number:043}": words for number in range(1_000)}
    body = {**NOW, "setErrs": errors}
    assert (await polled(site, path, body, headers={"Content-Language": "en"}))[0] == 200
    huge = {**NOW, "setErrs": {jti: {**words, "description": "d" * 300} for jti in errors}}
    assert (await polled(site, path, huge, headers={"Content-Language": "en"}))[0] == 413
