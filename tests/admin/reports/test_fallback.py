"""Reports of shares made in outages: each kept once, held against the ledger, and what should not be is said."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from admin.ledger.fallback_reports import REPORT, SHARE
from admin.ledger.instances import Member, Membership
from admin.ledger.schema import claims, instances, reports
from admin.reports.fallback_forms import MAX_ATTEMPTS, MAX_BYTES, MAX_SHARES, FallbackReport
from admin.reports.fallback_forms import read_fallback_report as read
from admin.reports.judging import MARGIN, Flag, Knowledge, flags_of, record_of
from engine.clock import UnixTime, format_utc, parse_utc
from engine.consent.reading import InvalidFields, InvalidText
from engine.consent.records import AccessMode, ClientId, ConsentRecord, PolicyRecord
from engine.consent.states import State
from engine.telemetry.host import SystemClock
from tests.support.admin_service import DATASET, Site

PATH = "/shares/fallback"
UNKNOWN = "c0ffee00-1111-4222-8333-444455556666"
DAY = 86_400


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def now() -> UnixTime:
    return SystemClock().now()


def share(consent_id: str, number: int = 1, *, ago: int = 0, **members: Any) -> dict[str, Any]:
    at = now() - ago
    made = {
        "evidence_id": f"0a1b2c3d-{number}",
        "evidence_hash": digest(f"entry {number}"),
        "at": format_utc(UnixTime(at)),
        "outage_since": format_utc(UnixTime(at // 600 * 600 - 600)),
        "token_digest": digest("token"),
        "client_id": "atp-1",
        "consent_id": consent_id,
        "consent_version": 1,
        "dataset_id": DATASET,
        "data_from": format_utc(UnixTime(at - 2 * DAY)),
        "data_to": format_utc(UnixTime(at - DAY)),
        "answered_at": format_utc(UnixTime(at - 700)),
        "as_of": format_utc(UnixTime(at - 701)),
    }
    return made | members


def attempt(at: str, **members: Any) -> dict[str, Any]:
    return {"address": "https://node-1.example:8440", "at": at, "milliseconds": 2000, "failure": "timeout", **members}


def form(*shares: dict[str, Any], **members: Any) -> dict[str, Any]:
    times = sorted({share["outage_since"] for share in shares})
    outages = [{"since": since, "attempts": [attempt(since)]} for since in times]
    return {"outages": outages, "shares": list(shares)} | members


async def report(site: Site, *shares: dict[str, Any], client: str = "edp-1", key: str | None = None) -> dict[str, Any]:
    status, body = await site.call(client, "POST", PATH, form(*shares), key=key)
    assert status == 200, body
    return body


async def rows(site: Site, prefix: str) -> int:
    query = reports.select().where(reports.c.idempotency_key.startswith(prefix))
    return len(await site.ledger.database.read(lambda connection: connection.execute(query).all()))


async def window(site: Site, consent_id: str) -> dict[str, str]:
    """A window that the consent covers."""
    _, shown = await site.call("operator-1", "GET", f"/consents/{consent_id}")
    start = shown["consent"]["data_from"]
    return {"data_from": start, "data_to": format_utc(UnixTime(parse_utc(start) + 1800))}


class TestReports:
    """Over mutual TLS, on a real ledger."""

    async def test_share_is_kept_and_operators_see_it(self, site: Site) -> None:
        consent_id = await site.granted()
        body = await report(site, share(consent_id, **await window(site, consent_id)))
        assert (body["taken"], body["after_end"]) == (1, 0)
        assert body["shares"] == [{"evidence_id": "0a1b2c3d-1", "result": "taken", "flags": []}]
        assert [outage["shown"] for outage in body["outages"]] == [True]
        status, listed = await site.call("operator-1", "GET", PATH)
        assert status == 200
        (row,) = listed["shares"]
        assert (row["edp"], row["consent_id"], row["result"]) == ("edp-1", consent_id, "taken")
        assert not {"token_digest", "share_id"} & row.keys()

    @pytest.mark.parametrize("client", ["operator-1", "atp-1", "node-1"])
    async def test_only_edps_report(self, site: Site, client: str) -> None:
        status, body = await site.call(client, "POST", PATH, form(share(UNKNOWN)))
        assert (status, body["code"]) == (403, "wrong_role")

    @pytest.mark.parametrize("client", ["edp-1", "atp-1", "node-1"])
    async def test_only_operators_look(self, site: Site, client: str) -> None:
        status, body = await site.call(client, "GET", PATH)
        assert (status, body["code"]) == (403, "wrong_role")

    async def test_same_key_gets_the_same_answer_whatever_has_happened_since(self, site: Site) -> None:
        consent_id = await site.granted()
        sent = share(consent_id, **await window(site, consent_id))
        first = await report(site, sent, key="report-key-1")
        await site.call("operator-1", "POST", f"/consents/{consent_id}/revoke", {"reason": "withdrawn"})
        assert await report(site, sent, key="report-key-1") == first
        assert await rows(site, SHARE) == await rows(site, REPORT) == 1
        status, body = await site.call("edp-1", "POST", PATH, form(share(UNKNOWN)), key="report-key-1")
        assert (status, body["code"]) == (409, "report_mismatch")
        # Another EDP's key of the same name is another key.
        await report(site, share(UNKNOWN), client="edp-2", key="report-key-1")

    async def test_share_is_kept_once_under_whatever_key(self, site: Site) -> None:
        consent_id = await site.granted()
        sent = share(consent_id, **await window(site, consent_id))
        await report(site, sent)
        with capture_logs() as logs:
            again = await report(site, sent, share(consent_id, 2, **await window(site, consent_id)))
        assert [one["result"] for one in again["shares"]] == ["repeated", "taken"]
        assert again["taken"] == 1
        assert await rows(site, SHARE) == 2
        assert [line for line in logs if line["event"].startswith("security")] == []

    async def test_share_reported_again_as_something_else_is_a_security_event(self, site: Site) -> None:
        consent_id = await site.granted()
        sent = share(consent_id, **await window(site, consent_id))
        await report(site, sent)
        with capture_logs() as logs:
            again = await report(site, sent | {"consent_version": 7})
        assert again["shares"][0]["result"] == "contradicted"
        assert ("security_fallback_shares", 1) in [(line["event"], line.get("contradicted")) for line in logs]

    async def test_share_after_the_consents_end_is_counted_and_flagged(self, site: Site) -> None:
        consent_id = await site.granted()
        inside = await window(site, consent_id)
        await site.call("operator-1", "POST", f"/consents/{consent_id}/revoke", {"reason": "withdrawn"})
        before = share(consent_id, 1, ago=30, **inside)
        after = share(consent_id, 2, ago=-30, **inside)
        with capture_logs() as logs:
            body = await report(site, before, after)
        assert [one["flags"] for one in body["shares"]] == [[], ["after_end"]]
        assert body["after_end"] == 1
        assert ("security_fallback_shares", 1) in [(line["event"], line.get("after_end")) for line in logs]

    async def test_unknown_and_foreign_consents_look_the_same(self, site: Site) -> None:
        foreign = await site.granted(2, atp="atp-2", edp="edp-2")
        body = await report(site, share(UNKNOWN, 1), share(foreign, 2))
        assert [(one["result"], one["flags"]) for one in body["shares"]] == [("unknown_consent", [])] * 2

    async def test_outage_through_which_a_node_was_heard_is_a_security_event(self, site: Site) -> None:
        sent = share(UNKNOWN)
        await add(site, node("node-1", since=now() - 5_000, last_seen=now() + 5))
        with capture_logs() as logs:
            body = await report(site, sent)
        assert body["outages"] == [{"since": sent["outage_since"], "shown": False}]
        events = [line for line in logs if line["event"] == "security_claimed_outage_not_shown"]
        assert [(line["edp"], line["nodes"], line["answered"]) for line in events] == [("edp-1", 1, 0)]

    async def test_outage_in_which_a_node_answered_that_very_edp_is_a_security_event(self, site: Site) -> None:
        sent = share(UNKNOWN)
        claim = {"consent_id": UNKNOWN, "edp": "edp-1", "share_id": "s", "claimed_at": float(now() - 1)}
        await site.ledger.database.run(lambda connection: connection.execute(claims.insert().values(**claim)))
        body = await report(site, sent)
        assert [outage["shown"] for outage in body["outages"]] == [False]
        body = await report(site, share(UNKNOWN, 2), client="edp-2")
        assert [outage["shown"] for outage in body["outages"]] == [True]

    async def test_largest_report_is_taken_and_a_larger_one_is_not(self, site: Site) -> None:
        shares = [share(UNKNOWN, number) for number in range(1, MAX_SHARES + 1)]
        body = await report(site, *shares)
        assert body["taken"] == MAX_SHARES
        status, refused = await site.call("edp-1", "POST", PATH, form(*shares, share(UNKNOWN, MAX_SHARES + 1)))
        assert (status, refused["code"]) == (400, "invalid_fields")
        too_long = msgspec.json.encode(form(share(UNKNOWN))) + b" " * MAX_BYTES
        headers = {"Content-Type": "application/json"}
        status, _ = await site.call("edp-1", "POST", PATH, content=too_long, headers=headers)
        assert status == 413

    async def test_report_without_a_key_is_refused_and_nothing_is_kept(self, site: Site) -> None:
        async with site.client("edp-1") as http:
            response = await http.post(PATH, json=form(share(UNKNOWN)))
        assert (response.status_code, response.json()["code"]) == (400, "missing_idempotency_key")
        assert await rows(site, SHARE) == 0

    async def test_list_can_be_cut_to_one_edp(self, site: Site) -> None:
        await report(site, share(UNKNOWN, 1), share(UNKNOWN, 2))
        await report(site, share(UNKNOWN, 1), client="edp-2")
        _, body = await site.call("operator-1", "GET", f"{PATH}?edp=edp-2")
        assert [row["edp"] for row in body["shares"]] == ["edp-2"]
        _, body = await site.call("operator-1", "GET", f"{PATH}?limit=2")
        assert len(body["shares"]) == 2

    @pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1001", "limit=1&limit=2", "edp=A%20B", "edp="])
    async def test_malformed_query_is_refused(self, site: Site, query: str) -> None:
        status, body = await site.call("operator-1", "GET", f"{PATH}?{query}")
        assert (status, body["code"]) == (400, "invalid_fields")


def node(node_id: str, *, since: float, last_seen: float, state: Membership = Membership.IN) -> Member:
    return Member(f"i-{node_id}", node_id, state, since, last_seen, 0)


async def add(site: Site, member: Member) -> None:
    row = msgspec.structs.asdict(member)
    await site.ledger.database.run(lambda connection: connection.execute(instances.insert().values(**row)))


AT = UnixTime(1_795_341_600)


def read_at(body: dict[str, Any]) -> FallbackReport:
    return read(msgspec.json.encode(body), UnixTime(now() + 1))


class TestForms:
    """What is malformed is refused as a whole, and every fault is named."""

    @pytest.mark.parametrize(
        ("members", "field"),
        [
            ({"evidence_id": "x"}, "shares.0.evidence_id"),
            ({"evidence_hash": "00"}, "shares.0.evidence_hash"),
            ({"at": "2099-01-01T00:00:00Z"}, "shares.0.at"),
            ({"at": "2026-02-31T00:00:00Z"}, "shares.0.at"),
            ({"at": "2000-01-01T00:00:00Z"}, "shares.0.at"),
            ({"as_of": "2099-01-01T00:00:00Z"}, "shares.0.as_of"),
            ({"data_to": "2020-01-01T00:00:00Z"}, "shares.0.data_to"),
            ({"token": "eyJ"}, "shares.0.token"),
            ({"mpxn": "mpan:1000000000012"}, "shares.0.mpxn"),
            ({"consent_id": "no"}, "shares.0.consent_id"),
            ({"consent_version": 0}, "shares.0.consent_version"),
            ({"share_id": "a b"}, "shares.0.share_id"),
            ({"client_id": None}, "shares.0.client_id"),
        ],
    )
    def test_faults_of_a_share(self, members: dict[str, Any], field: str) -> None:
        sent = form(share(UNKNOWN))
        sent["shares"][0].update(members)
        with pytest.raises(InvalidFields) as caught:
            read_at(sent)
        assert field in {problem.field for problem in caught.value.problems}

    @pytest.mark.parametrize(
        ("members", "field"),
        [
            ({"address": "http://node"}, "outages.0.attempts.0.address"),
            ({"failure": "boredom"}, "outages.0.attempts.0.failure"),
            ({"at": "2099-01-01T00:00:00Z"}, "outages.0.attempts.0.at"),
            ({"milliseconds": -1}, "outages.0.attempts.0.milliseconds"),
            ({"status": 99}, "outages.0.attempts.0.status"),
            ({"more": 1}, "outages.0.attempts.0.more"),
        ],
    )
    def test_faults_of_an_attempt(self, members: dict[str, Any], field: str) -> None:
        sent = form(share(UNKNOWN))
        sent["outages"][0]["attempts"][0].update(members)
        with pytest.raises(InvalidFields) as caught:
            read_at(sent)
        assert field in {problem.field for problem in caught.value.problems}

    def test_faults_between_items(self) -> None:
        one = share(UNKNOWN)
        for sent, field in (
            (form(one, one), "shares"),
            (form(one) | {"outages": form(one)["outages"] * 2}, "outages"),
            (form(one) | {"outages": form(share(UNKNOWN, ago=9_000))["outages"]}, "shares.0.outage_since"),
            (form(one) | {"outages": []}, "outages"),
            (form(one) | {"shares": []}, "shares"),
            (form(one) | {"shares": {}}, "shares"),
            (form(one) | {"more": 1}, ""),
            (form(one) | {"outages": [7]}, "outages.0"),
        ):
            with pytest.raises(InvalidFields) as caught:
                read_at(sent)
            assert field in {problem.field for problem in caught.value.problems}, field

    def test_example_of_the_guide_is_taken(self) -> None:
        guide = (Path(__file__).parents[3] / "docs" / "edp.md").read_text()
        example = next(block for block in re.findall(r"```json\n(.*?)```", guide, re.DOTALL) if '"outages"' in block)
        assert len(read(example.encode(), now()).shares) == 1

    def test_too_many_attempts(self) -> None:
        sent = form(share(UNKNOWN))
        sent["outages"][0]["attempts"] *= MAX_ATTEMPTS + 1
        with pytest.raises(InvalidFields, match="attempts"):
            read_at(sent)

    @pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"shares":1,"shares":2}', b"\xff"])
    def test_no_json_object(self, text: bytes) -> None:
        with pytest.raises((InvalidText, InvalidFields)):
            read(text, AT)


RECORD = ConsentRecord(
    State.ACTIVE, 1, ClientId("atp-1"), DATASET, AccessMode.ENDURING, UnixTime(AT - 90 * DAY), UnixTime(AT + 90 * DAY),
    UnixTime(AT - 400 * DAY), None, (), (ClientId("edp-1"),),
)  # fmt: skip


class TestJudging:
    """What the ledger says of it."""

    def judged(self, *, record: ConsentRecord = RECORD, recorded_at: int = 0, **members: Any) -> tuple[Flag, ...]:
        sent = form(share(UNKNOWN, **members))
        reported = read_at(sent).shares[0]
        shift = reported.at - AT
        moved = msgspec.structs.replace(
            record,
            expires_at=UnixTime(record.expires_at + shift),
            data_from=UnixTime(record.data_from + shift),
        )
        known = Knowledge.of(moved, UnixTime(recorded_at or reported.at))
        return flags_of(reported, known, PolicyRecord())

    def changed(self, **members: Any) -> ConsentRecord:
        return msgspec.structs.replace(RECORD, **members)

    def test_share_within_its_consent_has_no_flag(self) -> None:
        assert self.judged() == ()

    def test_flags(self) -> None:
        assert self.judged(client_id="atp-2") == (Flag.OUTSIDE_CONSENT,)
        assert self.judged(dataset_id="hh-gas-import") == (Flag.OUTSIDE_CONSENT,)
        assert self.judged(data_from="2000-01-01T00:00:00Z") == (Flag.OUTSIDE_CONSENT,)
        assert self.judged(data_to="2099-01-01T00:00:00Z") == (Flag.OUTSIDE_CONSENT,)
        assert self.judged(record=self.changed(access_mode=AccessMode.ONE_OFF)) == (Flag.ONE_OFF,)
        assert self.judged(record=self.changed(expires_at=UnixTime(AT - 1))) == (Flag.AFTER_END,)
        assert self.judged(record=self.changed(state=State.REVOKED), recorded_at=1) == (Flag.AFTER_END,)
        assert self.judged(record=self.changed(state=State.REVOKED)) == (), "in the second of the end it was not known"
        long_ago = format_utc(UnixTime(now() - DAY - MARGIN - 10))
        assert self.judged(outage_since=long_ago) == (Flag.BEYOND_CAP,)

    @pytest.mark.parametrize(
        ("member", "shown"),
        [
            (node("n", since=AT, last_seen=AT + 60), False),
            (node("n", since=AT + 1, last_seen=AT + 60), True),  # came while it lasted
            (node("n", since=AT, last_seen=AT + 59), True),  # was silent at its end
            (node("n", since=AT, last_seen=AT + 60, state=Membership.LEAVING), True),
        ],
    )
    def test_outage_is_shown_unless_a_node_was_heard_all_through_it(self, member: Member, shown: bool) -> None:
        sent = form(share(UNKNOWN))
        outage = msgspec.structs.replace(read_at(sent).outages[0], since=AT, until=UnixTime(AT + 60))
        assert record_of(outage, [member], 0).is_shown is shown
        assert record_of(outage, [], 1).is_shown is False
