"""Every decision vector that a whole worker can show, asked over real TLS: status, headers and body to the byte."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
import trio

from admin.pki.keys import FileTokenSigner, TokenKey, sign_jws
from engine.consent.records import POLICY_KEY, ParticipantRecord
from engine.feed.entries import Entry, EntryKind
from engine.listener.serve import Limits, serve
from engine.listener.tls import Credentials
from engine.tokens.jws import encode_part
from engine.tokens.verify import revocation_key
from tests.support.decision_vectors import METER_KEY, NOW, Case, cases
from tests.support.endpoint import Node
from tests.support.mutual_tls import Dialler, RawClient
from tests.support.pki import ISSUER, Pki
from tests.support.replicas import BOOT, INCARNATION, entry

SOME_SHARE = "another-share"


@pytest.fixture
def node(tmp_path: Path, pki: Pki, published: bytes) -> Iterator[Node]:
    node = Node(tmp_path, pki, published, NOW)
    yield node
    node.store.close()


def signed(case: Case, key: TokenKey, kid: str) -> bytes:
    """The vector's token by the issuer's own key; one that is not genuine has another token's signature."""
    header = encode_part(msgspec.json.encode({"typ": "at+jwt", "alg": "PS256", "kid": kid}))
    text = header + b"." + encode_part(msgspec.json.encode(case.claims(NOW, ISSUER)))
    return text + b"." + encode_part(sign_jws(key, text if case.token.genuine else text + b"x"))


def bring_about(case: Case, node: Node) -> None:
    """The vector's world, in the node's replica and at the claims' ledger."""
    node.open()
    certificates = {client_id: (node.pki.client(client_id).certificate,) for client_id in case.participants_}
    known: list[ParticipantRecord] = list(case.participants(certificates).values())
    entries = [entry(0, EntryKind.PARTICIPANT, record.client_id.encode(), record) for record in known]
    entries += [entry(0, EntryKind.CONSENT, key, it) for key, it in case.consent_records(NOW, METER_KEY).items()]
    entries.append(entry(0, EntryKind.POLICY, POLICY_KEY, case.policy()))
    if case.token.revoked:
        ended = msgspec.msgpack.encode([NOW + 86_400])
        entries.append(Entry(INCARNATION, 0, EntryKind.TOKEN_REVOCATION, revocation_key("t-1"), ended))
    node.apply(*entries, bound=case.bound(NOW, node.clock.up, BOOT, INCARNATION, 0))
    node.claims.reachable = case.claim.value != "unreachable"
    if case.claim.value == "taken":
        node.claims.held = {(spec.consent_id, case.ask.caller): SOME_SHARE for spec in case.consents.values()}


async def connect(node: Node, nursery: trio.Nursery, dialler: Dialler, caller: str) -> RawClient:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    tls = Credentials(node.pki.server_certificate_file, node.pki.server_key_file, node.pki.ca_file)

    async def run(*, task_status: trio.TaskStatus[object]) -> None:
        await serve(node.endpoint, [listening], tls, Limits(), clock=node.clock, task_status=task_status)

    await nursery.start(run)
    return await dialler.dial(port, node.pki.client_context(caller))


@pytest.mark.parametrize("case", cases("worker"), ids=lambda case: f"{case.file}: {case.name}")
async def test_a_worker_answers_as_the_vector_says(
    case: Case,
    node: Node,
    nursery: trio.Nursery,
    dialler: Dialler,
    token_keys: dict[str, TokenKey],
    token_signer: FileTokenSigner,
) -> None:
    bring_about(case, node)
    token = signed(case, token_keys["PS256"], token_signer.public.kid)
    body = urlencode({"token": token.decode()} | case.form(NOW)).encode()
    client = await connect(node, nursery, dialler, case.ask.caller)
    for request_id in ("vector-1", "vector-2"):  # the second time some of it is known already
        await client.send(
            b"POST /introspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"X-Request-ID: %b\r\nContent-Length: %d\r\n\r\n%b" % (request_id.encode(), len(body), body)
        )
        status, headers, answer = await client.answer()
        assert status == case.status
        assert headers["content-type"] == "application/json"
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"] == request_id
        if status == 200:
            assert answer == case.body(NOW, iss=ISSUER)
        else:
            assert answer == b'{"error":"temporarily_unavailable"}'
            assert int(headers["retry-after"]) >= 1
