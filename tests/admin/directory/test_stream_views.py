"""Stream management over real mutual TLS: every success and every refusal of SSF 1.0 section 8.1 that we know."""

from typing import Any

import pytest
import trio

from admin.ledger.events import StreamChanged, event_of
from engine.consent.records import ClientId
from engine.events.facts import StreamFact, VerificationFact
from engine.events.sets import SUPPORTED
from engine.feed.entries import EntryKind
from engine.pusher.service import Delivery
from engine.pusher.streams import StreamRecord
from tests.support.admin_service import ISSUER, MACHINE_URL, PATIENCE, Reply, Site

PUSH = {"delivery": {"method": "urn:ietf:rfc:8935", "endpoint_url": "https://events.edp1.example/ccs"}}
POLL = {"delivery": {"method": "urn:ietf:rfc:8936"}}
NOBODYS = "00000000-0000-4000-8000-000000000000"


async def created(site: Site, form: dict[str, Any], client_id: str = "edp-1") -> dict[str, Any]:
    status, stream = await site.call(client_id, "POST", "/ssf/streams", form)
    assert status == 201, stream
    return stream


async def record(site: Site, stream_id: str) -> StreamRecord:
    """A stream as the ledger has it."""
    state = await site.ledger.subject(f"stream:{stream_id}")
    assert state is not None
    event = event_of(state.event)
    assert isinstance(event, StreamChanged)
    return event.stream


async def told(site: Site, count: int) -> list[Delivery]:
    """The framework events in the outbox, once there are so many."""
    with trio.fail_after(PATIENCE):
        while True:
            found = [one for one in await site.outbox.unsigned(0, 500, 0) if one.seq == 0]  # type: ignore[arg-type]  # seconds
            if len(found) >= count:
                return found
            await trio.sleep(0.02)


async def confirmed(site: Site, client_id: str = "edp-1") -> dict[str, Any]:
    stream = await created(site, PUSH, client_id)
    body = {"stream_id": stream["stream_id"], "challenge": (await record(site, stream["stream_id"])).challenge}
    assert (await site.call(client_id, "POST", "/ssf/confirm", body))[0] == 200
    return stream


def refused(reply: Reply) -> tuple[int, str]:
    return reply[0], reply[1].get("code", "")


async def test_a_poll_stream_is_what_comes_of_an_empty_request(site: Site) -> None:
    stream = await created(site, {})
    endpoint = f"{MACHINE_URL}/ssf/poll/{stream['stream_id']}"
    assert stream == {
        "stream_id": stream["stream_id"],
        "iss": ISSUER,
        "aud": "edp-1",
        "events_supported": list(SUPPORTED),
        "events_delivered": list(SUPPORTED),
        "delivery": {"method": "urn:ietf:rfc:8936", "endpoint_url": endpoint},
        "min_verification_interval": 60,
    }
    one = f"?stream_id={stream['stream_id']}"
    assert await site.call("edp-1", "GET", f"/ssf/streams{one}") == (200, stream)
    shown = await site.call("edp-1", "GET", f"/ssf/status{one}")
    assert shown == (200, {"stream_id": stream["stream_id"], "status": "enabled"})
    (event,) = await site.ledger.events((await site.ledger.head()).position.seq - 1, 1)
    assert event.feed is not None
    assert (event.feed.kind, event.feed.key) == (EntryKind.RECEIVER, stream["stream_id"].encode())


async def test_a_receiver_lists_its_own_streams_alone(site: Site) -> None:
    assert await site.call("edp-1", "GET", "/ssf/streams") == (200, [])
    push, poll = await created(site, PUSH), await created(site, POLL)
    await created(site, POLL, "atp-1")
    status, listed = await site.call("edp-1", "GET", "/ssf/streams")
    assert (status, {one["stream_id"] for one in listed}) == (200, {push["stream_id"], poll["stream_id"]})  # type: ignore[index]  # a list


async def test_a_push_stream_is_enabled_by_the_challenge_that_came_to_its_address(site: Site) -> None:
    stream = await created(site, PUSH)
    stream_id = stream["stream_id"]
    one = f"?stream_id={stream_id}"
    assert (await site.call("edp-1", "GET", f"/ssf/status{one}"))[1]["status"] == "paused"
    (delivery,) = await told(site, 1)
    assert isinstance(delivery.fact, VerificationFact)
    challenge = delivery.fact.challenge
    assert challenge
    assert challenge not in str(await site.call("edp-1", "GET", f"/ssf/streams{one}"))
    early = await site.call("edp-1", "POST", "/ssf/status", {"stream_id": stream_id, "status": "enabled"})
    assert refused(early) == (403, "address_not_confirmed")
    wrong = await site.call("edp-1", "POST", "/ssf/confirm", {"stream_id": stream_id, "challenge": "guessed"})
    assert refused(wrong) == (400, "wrong_challenge")
    right = {"stream_id": stream_id, "challenge": challenge}
    assert refused(await site.call("edp-2", "POST", "/ssf/confirm", right)) == (404, "unknown_stream")
    done = await site.call("edp-1", "POST", "/ssf/confirm", right)
    assert done == (200, {"stream_id": stream_id, "status": "enabled"})
    assert refused(await site.call("edp-1", "POST", "/ssf/confirm", right)) == (409, "nothing_to_confirm")
    fact = (await told(site, 2))[-1].fact
    assert isinstance(fact, StreamFact)
    assert (fact.stream_id, fact.status) == (stream_id, "enabled")


async def test_after_five_wrong_tries_the_right_challenge_is_not_taken_any_more(site: Site) -> None:
    stream_id = (await created(site, PUSH))["stream_id"]
    right = {"stream_id": stream_id, "challenge": (await record(site, stream_id)).challenge}
    for _ in range(5):
        wrong = await site.call("edp-1", "POST", "/ssf/confirm", {**right, "challenge": "guessed"})
        assert refused(wrong) == (400, "wrong_challenge")
    assert refused(await site.call("edp-1", "POST", "/ssf/confirm", right)) == (409, "challenge_spent")


async def test_a_second_stream_of_a_kind_is_refused_also_when_both_are_asked_for_at_once(site: Site) -> None:
    replies: list[Reply] = []

    async def create() -> None:
        replies.append(await site.call("edp-1", "POST", "/ssf/streams", POLL))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(create)
    assert sorted(refused(reply) for reply in replies) == [(201, ""), *[(409, "stream_exists")] * 3]
    assert len((await site.call("edp-1", "GET", "/ssf/streams"))[1]) == 1


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"delivery": {"method": "urn:ietf:rfc:8935"}}, "#/delivery/endpoint_url"),
    ({"delivery": {"method": "urn:ietf:rfc:8935", "endpoint_url": "http://e.example"}}, "#/delivery/endpoint_url"),
    ({"delivery": {"method": "urn:ietf:rfc:8936", "endpoint_url": "https://e.example"}}, "#/delivery/endpoint_url"),
    ({"delivery": {**PUSH["delivery"], "authorization_header": "Bearer x"}}, "#/delivery/authorization_header"),
    ({"delivery": {"method": "carrier-pigeon"}}, "#/delivery/method"),
    ({"delivery": None}, "#/delivery"),
    ({"events_requested": list(SUPPORTED[1:])}, "#/events_requested"),
    ({"events_requested": "all"}, "#/events_requested"),
    ({"description": "x" * 201}, "#/description"),
    ({"colour": "red"}, "#/colour"),
]


async def test_a_request_that_breaks_a_rule_is_told_where(site: Site) -> None:
    for form, pointer in BAD_REQUESTS:
        status, problem = await site.call("edp-1", "POST", "/ssf/streams", form)
        assert (status, [error["pointer"] for error in problem["errors"]]) == (400, [pointer]), form
    assert await site.call("edp-1", "GET", "/ssf/streams") == (200, [])


async def test_patch_changes_what_is_given_and_put_deletes_what_is_not(site: Site) -> None:
    stream = await created(site, {**POLL, "description": "night shift", "events_requested": list(SUPPORTED)})
    named = {"stream_id": stream["stream_id"]}
    status, patched = await site.call("edp-1", "PATCH", "/ssf/streams", {**named, "description": "day shift"})
    assert (status, patched) == (200, {**stream, "description": "day shift"})
    status, put = await site.call("edp-1", "PUT", "/ssf/streams", named)
    assert status == 200
    assert put == {name: value for name, value in stream.items() if name not in ("description", "events_requested")}
    assert await site.call("edp-1", "PUT", "/ssf/streams", put) == (200, put)  # as a GET shows it


async def test_another_address_is_confirmed_before_it_is_used(site: Site) -> None:
    stream = await confirmed(site)
    moved = {"method": "urn:ietf:rfc:8935", "endpoint_url": "https://new.edp1.example/ccs"}
    body = {"stream_id": stream["stream_id"], "delivery": moved}
    assert refused(await site.call("edp-1", "PATCH", "/ssf/streams", body)) == (403, "mandatory_stream")
    await created(site, POLL)
    status, patched = await site.call("edp-1", "PATCH", "/ssf/streams", body)
    assert (status, patched["delivery"]) == (200, moved)
    now = await record(site, stream["stream_id"])
    assert (now.status, bool(now.challenge), now.is_usable) == ("paused", True, False)
    moved["endpoint_url"] += "/2"
    async with site.client("edp-1") as http:
        soon = await http.patch("/ssf/streams", json=body)
    assert (soon.status_code, soon.json()["code"]) == (429, "too_soon")
    assert 0 < int(soon.headers["Retry-After"]) <= 60


BAD_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"iss": "https://other.example"}, "#/iss"),
    ({"aud": "edp-2"}, "#/aud"),
    ({"events_supported": []}, "#/events_supported"),
    ({"events_delivered": []}, "#/events_delivered"),
    ({"min_verification_interval": 1}, "#/min_verification_interval"),
    ({"delivery": {"method": "urn:ietf:rfc:8935", "endpoint_url": "https://e.example/"}}, "#/delivery/method"),
    ({"delivery": {"method": "urn:ietf:rfc:8936", "endpoint_url": "https://e.e/"}}, "#/delivery/endpoint_url"),
    ({"description": 5}, "#/description"),
]


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_change_that_breaks_a_rule_is_told_where(site: Site, method: str) -> None:
    stream = await created(site, POLL)
    for members, pointer in BAD_CHANGES:
        body = {"stream_id": stream["stream_id"], **members}
        status, problem = await site.call("edp-1", method, "/ssf/streams", body)
        assert (status, [error["pointer"] for error in problem["errors"]]) == (400, [pointer]), members
    assert await site.call("edp-1", "GET", "/ssf/streams") == (200, [stream])


async def test_a_push_stream_cannot_lose_its_address(site: Site) -> None:
    stream = await created(site, PUSH)
    reply = await site.call("edp-1", "PUT", "/ssf/streams", {"stream_id": stream["stream_id"]})
    assert refused(reply) == (400, "invalid_fields")


async def test_the_last_stream_that_works_stays(site: Site) -> None:
    poll = (await created(site, POLL))["stream_id"]
    await created(site, PUSH)  # not confirmed: it does not count
    disable = {"stream_id": poll, "status": "disabled"}
    assert refused(await site.call("edp-1", "POST", "/ssf/status", disable)) == (403, "mandatory_stream")
    assert refused(await site.call("edp-1", "DELETE", f"/ssf/streams?stream_id={poll}")) == (403, "mandatory_stream")


async def test_of_two_streams_one_may_go_and_does_not_come_anew_within_a_minute(site: Site) -> None:
    push, poll = (await confirmed(site))["stream_id"], (await created(site, POLL))["stream_id"]
    assert await site.call("edp-1", "DELETE", f"/ssf/streams?stream_id={poll}") == (204, {})
    for gone in (
        await site.call("edp-1", "GET", f"/ssf/streams?stream_id={poll}"),
        await site.call("edp-1", "GET", f"/ssf/status?stream_id={poll}"),
        await site.call("edp-1", "DELETE", f"/ssf/streams?stream_id={poll}"),
    ):
        assert refused(gone) == (404, "unknown_stream")
    assert refused(await site.call("edp-1", "DELETE", f"/ssf/streams?stream_id={push}")) == (403, "mandatory_stream")
    async with site.client("edp-1") as http:
        anew = await http.post("/ssf/streams", json=POLL)
    assert (anew.status_code, anew.json()["code"]) == (429, "too_soon")
    assert 0 < int(anew.headers["Retry-After"]) <= 60


async def test_two_that_go_at_once_do_not_both_go(site: Site) -> None:
    streams = [(await confirmed(site))["stream_id"], (await created(site, POLL))["stream_id"]]
    replies: list[Reply] = []

    async def disable(stream_id: str) -> None:
        body = {"stream_id": stream_id, "status": "disabled"}
        replies.append(await site.call("edp-1", "POST", "/ssf/status", body))

    async with trio.open_nursery() as nursery:
        for stream_id in streams:
            nursery.start_soon(disable, stream_id)
    assert sorted(refused(reply) for reply in replies) == [(200, ""), (403, "mandatory_stream")]


async def test_a_pause_has_its_end_with_it_and_a_reason(site: Site) -> None:
    stream_id = (await created(site, POLL))["stream_id"]
    paused = {"stream_id": stream_id, "status": "paused", "reason": "maintenance"}
    assert await site.call("edp-1", "POST", "/ssf/status", paused) == (200, paused)
    now = await record(site, stream_id)
    assert now.paused_until is not None
    assert 0 < now.paused_until - now.created_at <= 901
    enabled = {"stream_id": stream_id, "status": "enabled"}
    assert await site.call("edp-1", "POST", "/ssf/status", enabled) == (200, enabled)


async def test_a_verification_is_made_with_the_receivers_own_word_once_a_minute(site: Site) -> None:
    stream_id = (await created(site, POLL))["stream_id"]
    body = {"stream_id": stream_id, "state": "round-4471"}
    assert await site.call("edp-1", "POST", "/ssf/verify", body) == (204, {})
    (delivery,) = await told(site, 1)
    assert isinstance(delivery.fact, VerificationFact)
    assert (delivery.fact.state, delivery.fact.challenge) == ("round-4471", None)
    async with site.client("edp-1") as http:
        again = await http.post("/ssf/verify", json=body)
    assert (again.status_code, again.json()["code"]) == (429, "too_soon")
    assert 0 < int(again.headers["Retry-After"]) <= 60


async def test_of_two_verifications_at_once_one_is_made_and_one_told_to_wait(site: Site) -> None:
    stream_id = (await created(site, POLL))["stream_id"]
    answers: list[tuple[int, str]] = []

    async def verify() -> None:
        async with site.client("edp-1") as http:
            answer = await http.post("/ssf/verify", json={"stream_id": stream_id, "state": "mine"})
        answers.append((answer.status_code, answer.headers.get("Retry-After", "")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(verify)
        nursery.start_soon(verify)
    (made, none), (refused_one, after) = sorted(answers)
    assert (made, none, refused_one) == (204, "", 429)
    assert 0 < int(after) <= 60
    assert len(await told(site, 1)) == 1


async def test_a_verification_of_an_address_that_is_not_confirmed_brings_no_state_there(site: Site) -> None:
    stream_id = (await created(site, PUSH))["stream_id"]
    reply = await site.call("edp-1", "POST", "/ssf/verify", {"stream_id": stream_id, "state": "x"})
    assert refused(reply) == (429, "too_soon")  # the first challenge has just gone there
    (delivery,) = await told(site, 1)
    assert isinstance(delivery.fact, VerificationFact)
    assert delivery.fact.state is None


async def test_a_disabled_stream_is_not_verified(site: Site) -> None:
    await confirmed(site)
    stream_id = (await created(site, POLL))["stream_id"]
    await site.call("edp-1", "POST", "/ssf/status", {"stream_id": stream_id, "status": "disabled"})
    reply = await site.call("edp-1", "POST", "/ssf/verify", {"stream_id": stream_id})
    assert refused(reply) == (400, "stream_disabled")


CALLS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/ssf/streams?stream_id={}", None),
    ("DELETE", "/ssf/streams?stream_id={}", None),
    ("PATCH", "/ssf/streams", {"stream_id": "{}"}),
    ("PUT", "/ssf/streams", {"stream_id": "{}"}),
    ("GET", "/ssf/status?stream_id={}", None),
    ("POST", "/ssf/status", {"stream_id": "{}", "status": "paused"}),
    ("POST", "/ssf/verify", {"stream_id": "{}"}),
    ("POST", "/ssf/confirm", {"stream_id": "{}", "challenge": "x"}),
    ("POST", "/ssf/poll/{}", {"returnImmediately": True}),
]


async def every_call(site: Site, client_id: str, stream_id: str) -> list[Reply]:
    replies = []
    for method, path, body in CALLS:
        sent = None if body is None else {k: stream_id if v == "{}" else v for k, v in body.items()}
        replies.append(await site.call(client_id, method, path.format(stream_id), sent))
    return replies


async def test_a_foreign_stream_looks_as_one_that_is_not_there(site: Site) -> None:
    foreign = (await created(site, POLL, "atp-1"))["stream_id"]
    theirs = await every_call(site, "edp-1", foreign)
    assert theirs == await every_call(site, "edp-1", NOBODYS)
    assert {refused(reply) for reply in theirs} == {(404, "unknown_stream")}
    assert (await site.call("atp-1", "GET", f"/ssf/status?stream_id={foreign}"))[1]["status"] == "enabled"


@pytest.mark.parametrize("client_id", ["operator-1", "node-1"])
async def test_only_atps_and_edps_receive(site: Site, client_id: str) -> None:
    replies = [*await every_call(site, client_id, NOBODYS), await site.call(client_id, "POST", "/ssf/streams", {})]
    assert {refused(reply) for reply in replies} == {(403, "wrong_role")}


async def test_strangers_and_the_suspended_get_nothing(site: Site) -> None:
    strangers = await every_call(site, "nobody", NOBODYS)
    assert {refused(reply) for reply in strangers} == {(401, "unknown_caller")}
    await site.call("operator-1", "POST", "/participants/edp-1/suspend")
    assert {refused(reply) for reply in await every_call(site, "edp-1", NOBODYS)} == {(403, "suspended_caller")}


async def test_a_query_that_names_no_stream_is_refused(site: Site) -> None:
    for method, path in (
        ("GET", "/ssf/streams?stream_id=x"),
        ("GET", f"/ssf/streams?stream_id={NOBODYS}&stream_id={NOBODYS}"),
        ("DELETE", "/ssf/streams"),
        ("GET", "/ssf/status"),
        ("GET", "/ssf/status?stream_id="),
    ):
        status, problem = await site.call("edp-1", method, path)
        assert (status, [error["pointer"] for error in problem["errors"]]) == (400, ["#/stream_id"]), path


async def test_the_outbox_knows_every_stream(site: Site) -> None:
    """So that what was made here is what the pusher sees."""
    await created(site, POLL)
    await created(site, PUSH)
    with trio.fail_after(PATIENCE):
        while True:
            roster = await site.outbox.roster(0, 0)  # type: ignore[arg-type]  # seconds
            mine = [one for one in roster.receivers if one.client_id == ClientId("edp-1")] if roster else []
            if mine and len(mine[0].streams) == 2:
                break
            await trio.sleep(0.02)
    assert {one.endpoint_url for one in mine[0].streams} == {"", "https://events.edp1.example/ccs"}


BAD_CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("/ssf/status", {"status": "asleep"}, "#/status"),
    ("/ssf/status", {"status": "paused", "until": 1}, "#/until"),
    ("/ssf/status", {"status": "paused", "reason": 5}, "#/reason"),
    ("/ssf/status", {}, "#/status"),
    ("/ssf/verify", {"state": 5}, "#/state"),
    ("/ssf/verify", {"state": "x" * 1_025}, "#/state"),
    ("/ssf/verify", {"subject": {}}, "#/subject"),
    ("/ssf/confirm", {}, "#/challenge"),
    ("/ssf/confirm", {"challenge": ""}, "#/challenge"),
]


async def test_a_call_that_breaks_a_rule_changes_nothing(site: Site) -> None:
    stream_id = (await created(site, POLL))["stream_id"]
    before = await site.ledger.head()
    for path, members, pointer in BAD_CALLS:
        status, problem = await site.call("edp-1", "POST", path, {"stream_id": stream_id, **members})
        assert (status, [error["pointer"] for error in problem["errors"]]) == (400, [pointer]), members
    for path in ("/ssf/status", "/ssf/verify", "/ssf/confirm"):
        status, problem = await site.call("edp-1", "POST", path, [])
        assert (status, problem["code"]) == (400, "invalid_fields")
    assert await site.ledger.head() == before
    assert (await site.call("edp-1", "POST", "/ssf/verify", {"stream_id": stream_id}))[0] == 204


async def test_there_are_no_calls_for_subjects(site: Site) -> None:
    """A receiver hears of its own consents, all of them; nothing is added or removed."""
    stream_id = (await created(site, POLL))["stream_id"]
    for path in ("/ssf/subjects:add", "/ssf/subjects:remove"):
        subject = {"stream_id": stream_id, "subject": {"format": "opaque", "id": "x"}}
        assert (await site.call("edp-1", "POST", path, subject))[0] == 404
