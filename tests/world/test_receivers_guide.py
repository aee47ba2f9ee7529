"""The receivers' guide as its reader meets it: its own commands, in their order, against a running sandbox."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from admin.ledger.events import StreamChanged, decode
from tests.support.sandbox import ROOT, Running, eventually
from tests.world import test_front_door
from tests.world.test_front_door import checkout, run_as_written, shell_blocks

__all__ = ["checkout"]
PAGE = "docs/receivers.md"


def challenge_of(sandbox: Running, stream_id: str) -> str:
    """What was sent to a stream's address, as the ledger has it."""
    engine = sa.create_engine(f"sqlite:///{sandbox.state / 'ledger/ledger.db'}")
    with engine.connect() as connection:
        query = sa.text("SELECT body FROM events WHERE subject = :subject ORDER BY seq DESC LIMIT 1")
        event = decode(connection.execute(query, {"subject": f"stream:{stream_id}"}).scalar_one())
    engine.dispose()
    assert isinstance(event, StreamChanged)
    return event.stream.challenge


def test_the_receivers_guides_commands_work_when_pasted_in_their_order(
    sandbox: Running, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(test_front_door.DOCUMENTED, "localhost:8450", "admin_url")
    discover, poll_stream, push_stream, confirm, verify, poll, ack, snapshot, changes, operators = shell_blocks(PAGE)

    def run(block: str) -> str:
        return run_as_written(block, sandbox, checkout)

    found = json.loads(run(discover))
    assert (found["issuer"], found["delivery_methods_supported"][0]) == (sandbox.about["issuer"], "urn:ietf:rfc:8935")
    assert found["configuration_endpoint"] == f"{sandbox.about['admin_mtls_url']}/ssf/streams"
    made = json.loads(run(poll_stream))
    assert made["delivery"]["endpoint_url"] == f"{sandbox.about['admin_mtls_url']}/ssf/poll/{made['stream_id']}"
    push = json.loads(run(push_stream))
    assert (push["aud"], push["delivery"]["method"]) == ("edp-2", "urn:ietf:rfc:8935")
    (checkout / "var/challenge").write_text(challenge_of(sandbox, push["stream_id"]))
    assert json.loads(run(confirm)) == {"stream_id": push["stream_id"], "status": "enabled"}
    assert json.loads(run(verify)) == {"stream_id": made["stream_id"], "status": "enabled"}
    assert set(json.loads(run(poll))) == {"sets", "moreAvailable"}
    assert json.loads(run(ack)) == {"sets": {}, "moreAvailable": False}
    assert run(snapshot).startswith('{"incarnation":')
    listed = json.loads((sandbox.state / "snapshot.json").read_text())
    assert {line["state"] for line in listed["consents"]} >= {"active"}
    told = heard(lambda: json.loads(run(changes)), lambda view: view["as_of_seq"] >= listed["as_of_seq"])
    assert (told["consents"], told["more"]) == ([], False)
    (minted,) = sandbox.tokens(1, "--edp", "edp-2")
    consents = heard(lambda: json.loads(run(changes)), lambda view: len(view["consents"]) > 0)["consents"]
    assert (consents[-1]["consent_id"], consents[-1]["state"]) == (minted["consent_id"], "active")
    said = run(operators)
    for word in ("edp-2", made["stream_id"], push["stream_id"], "is paused", "is enabled"):
        assert word in said


def heard(ask: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
    """The answer, once the outbox has come as far as the ledger."""
    answers: list[Any] = []

    def once_more() -> bool:
        answers.append(ask())
        return enough(answers[-1])

    eventually(once_more)
    return answers[-1]


def test_the_codes_that_the_guide_names_are_the_services_own() -> None:
    from admin.callers import SuspendedCaller, WrongRole
    from admin.directory.poll_views import PollOutstanding
    from admin.directory.stream_service import StreamDisabled, WrongChallenge
    from admin.directory.streams import (
        AddressNotConfirmed,
        ChallengeSpent,
        MandatoryStream,
        NothingToConfirm,
        StreamExists,
        StreamHeld,
        TooSoon,
        UnknownStream,
    )
    from admin.edge import STATUSES, code_of
    from admin.ledger.listings import TooOld
    from engine.clock import Seconds
    from engine.consent.reading import InvalidFields, InvalidText

    kinds = (
        SuspendedCaller, WrongRole, PollOutstanding, StreamDisabled, WrongChallenge, AddressNotConfirmed,
        ChallengeSpent, MandatoryStream, NothingToConfirm, StreamExists, StreamHeld, UnknownStream, TooOld, InvalidText,
    )  # fmt: skip
    faults = [InvalidFields([]), TooSoon(Seconds(1.0)), *(kind("") for kind in kinds)]
    told = {(int(STATUSES[fault.kind]), code_of(fault)) for fault in faults}
    rows = re.findall(r"^\| (?:401, )?(\d{3}) ((?:`\w+`(?:, )?)+) \|", (ROOT / PAGE).read_text(), re.MULTILINE)
    assert {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)} == told
