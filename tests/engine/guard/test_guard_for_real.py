"""A guard against a real sandbox: real nodes, real mutual TLS, real tokens, on trio and on asyncio."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from engine.clock import UnixTime, parse_utc
from engine.consent.records import Thumbprint
from engine.guard.config import AnswerForm, GuardConfig, Service, Store
from engine.guard.guard import Guard
from engine.guard.questions import digest_of
from engine.guard.shares import Reason, Share, Verdict
from engine.tokens import jws
from tests.support.guard_stand import Recorded, Told
from tests.support.mutual_tls import thumbprint_of
from tests.support.sandbox import Running

BACKENDS = ["trio", "asyncio"]


def config(sandbox: Running, edp: str, answers: AnswerForm = AnswerForm.PLAIN, **service: Any) -> GuardConfig:
    about, pki = sandbox.about, sandbox.state / "pki"
    endpoint = urlsplit(about["introspection_endpoint"])
    return GuardConfig(
        client_id=edp,
        issuer=about["issuer"],
        answers=answers,
        service=Service(
            addresses=(f"https://{endpoint.netloc}",), ca_file=pki / "ca.pem", certificate_file=pki / f"{edp}.pem",
            key_file=pki / f"{edp}.key", **service,
        ),
        store=Store(directory=sandbox.state / "guard", key_file=sandbox.state / "guard.key"),
    )  # fmt: skip


def thumbprint(certificate: Path) -> Thumbprint:
    return Thumbprint(thumbprint_of(certificate))


def share_of(sandbox: Running, minted: dict[str, Any], **changes: Any) -> Share:
    """A share that the token's own consent covers."""
    parts = jws.split(minted["token"].encode())
    assert parts is not None
    claims = json.loads(jws.decode_part(parts.payload) or b"")
    (detail,) = claims["authorization_details"]
    start = parse_utc(detail["data_from"])
    values: dict[str, Any] = {
        "token": minted["token"], "thumbprint": thumbprint(sandbox.state / "pki" / f"{minted['atp']}.pem"),
        "dataset_id": detail["dataset_id"], "mpxn": detail["meter_points"][0], "data_from": start,
        "data_to": UnixTime(start + 86_400),
    } | changes  # fmt: skip
    return Share(**values)


def on(backend: str, guard: Guard, ask: Callable[[Guard], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with guard:
            return await ask(guard)

    return anyio.run(run, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_share_is_checked(sandbox: Running, backend: str) -> None:
    token = sandbox.tokens(1, "--edp", "edp-1")[0]
    memory = Told()
    good = share_of(sandbox, token)
    wrong = share_of(sandbox, token, thumbprint=bytes(32))
    outside = share_of(sandbox, token, data_to=UnixTime(good.data_from + 86_400 * 4000))
    forged = share_of(sandbox, token, token=token["token"][:-8] + "AAAAAAAA")

    async def ask(guard: Guard) -> list[Verdict]:
        return [await guard.check(each) for each in (good, wrong, outside, forged)]

    verdicts = on(backend, Guard(config(sandbox, "edp-1"), memory=memory, evidence=Recorded()), ask)
    assert [verdict.reason for verdict in verdicts] == [
        Reason.CONSENTED, Reason.WRONG_CERTIFICATE, Reason.NOT_ACTIVE, Reason.NOT_ACTIVE,
    ]  # fmt: skip
    assert verdicts[0].consent_id == token["consent_id"]
    known = memory.look(digest_of(good))
    assert known is not None
    assert known.client_id == token["atp"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("edp", "answers"), [("edp-1", AnswerForm.PLAIN), ("edp-3", AnswerForm.SIGNED)])
def test_many_shares_are_checked(sandbox: Running, backend: str, edp: str, answers: AnswerForm) -> None:
    """Twelve tokens: each is introspected with its first share, the other shares go by its digest."""
    minted = sandbox.tokens(12, "--edp", edp)
    memory = Told()
    good = [share_of(sandbox, each) for each in minted]
    shares = [
        *good,
        *good,
        share_of(sandbox, minted[0], thumbprint=bytes(32)),
        share_of(sandbox, minted[0], mpxn="mpan:1012345678903"),
        share_of(sandbox, minted[0], token="never issued"),
        share_of(sandbox, minted[0], mpxn="nonsense"),
    ]

    async def ask(guard: Guard) -> tuple[list[Verdict], list[Verdict], int]:
        first, second = await guard.check_many(shares), await guard.check_many(good)
        status = guard.status()
        assert status.calls is not None
        return first, second, status.calls.calls

    first, second, calls = on(backend, Guard(config(sandbox, edp, answers), memory=memory, evidence=Recorded()), ask)
    assert [verdict.reason for verdict in first] == [
        *[Reason.CONSENTED] * 24, Reason.WRONG_CERTIFICATE, Reason.NOT_COVERED, Reason.NOT_ACTIVE, Reason.BAD_REQUEST,
    ]  # fmt: skip
    assert [verdict.consent_id for verdict in second] == [each["consent_id"] for each in minted]
    assert calls == 12 + 1 + 1 + 1  # singly; of a token that nobody issued; the other shares; the second round
    assert len({verdict.evidence_id for verdict in (*first, *second)}) == len(first) + len(second)
    begins = b"ey" if answers is AnswerForm.SIGNED else b"{"  # evidence is kept as it came
    assert all(known.answer.startswith(begins) for known in memory.tokens.values())
