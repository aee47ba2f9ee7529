"""The served OpenAPI document describes the running service: generated calls get documented answers only."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import trio
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from admin.pki.keys import FileTokenSigner
from tests.support.admin_service import PATIENCE, Site, grant_form, machine_site
from tests.support.pki import Pki

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
RECEIVERS_CALLS = ("/ssf/", "/consents/changes", "/consents/snapshot")
EXAMPLES = 12  # for each operation and way of generating: bounded, and the same ones in every run


class Running:
    """The machine API in a thread of its own, because schemathesis calls it synchronously."""

    def __init__(self, pki: Pki, signer: FileTokenSigner, directory: Path) -> None:
        self._arguments = (pki, signer, directory)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,), daemon=True)
        self._stop = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self.url = ""
        self.session, self.receiver = _session(pki, "operator-1"), _session(pki, "edp-1")

    def session_for(self, path: str) -> requests.Session:
        """Whoever may make the call: everything but what receivers do is an operator's to call."""
        return self.receiver if path.startswith(RECEIVERS_CALLS) else self.session

    async def _serve(self) -> None:
        async with machine_site(*self._arguments) as site:
            self._token = trio.lowlevel.current_trio_token()
            self.url = f"https://localhost:{site.port}"
            self.consent_id = await Site.granted(site)
            self._ready.set()
            await self._stop.wait()

    def start(self) -> "Running":
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def stop(self) -> None:
        self.session.close()
        self.receiver.close()
        assert self._token is not None
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(PATIENCE)


def _session(pki: Pki, client_id: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # neither proxies nor another bundle of authorities
    session.verify = str(pki.ca_file)
    files = pki.client(client_id)
    session.cert = (str(files.certificate_file), str(files.key_file))
    return session


@pytest.fixture(scope="module")
def running(pki: Pki, token_signer: FileTokenSigner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    service = Running(pki, token_signer, tmp_path_factory.mktemp("openapi")).start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def document(running: Running) -> dict[str, Any]:
    response = running.session.get(f"{running.url}/openapi.json", timeout=PATIENCE)
    assert response.status_code == 200
    read: dict[str, Any] = response.json()
    return read


def test_the_document_is_openapi_3_1_and_complete(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["components"]["securitySchemes"]["certificate"]["type"] == "mutualTLS"
    operations = [one for path in document["paths"].values() for one in path.values()]
    ids = [one["operationId"] for one in operations]
    assert len(set(ids)) == len(ids) >= 28
    assert all(one["summary"] and {"401", "403", "503"} <= one["responses"].keys() for one in operations)


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from ([part["$ref"]] if "$ref" in part else [])
            for value in part.values():
                yield from references(value)
        elif isinstance(part, list):
            for value in part:
                yield from references(value)

    names = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert names <= document["components"]["schemas"].keys()


def test_what_is_sent_may_never_be_null(document: dict[str, Any]) -> None:
    forms = {name: schema for name, schema in document["components"]["schemas"].items() if name.endswith("Form")}
    assert forms
    assert '"null"' not in str(forms).replace("'", '"')


def test_documentation_pages_that_load_scripts_from_elsewhere_are_off(running: Running) -> None:
    for path in ("/docs", "/redocs", "/scalar"):
        assert running.session.get(running.url + path, timeout=PATIENCE).status_code == 404


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_generated_calls_get_documented_answers(
    running: Running, document: dict[str, Any], mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document)
    called = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.headers):
            continue  # any text may stand in a path: there is nothing to get wrong

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def call(case: schemathesis.Case) -> None:
            nonlocal called
            called += 1
            if isinstance(case.body, dict) and isinstance(case.body.get("count"), int):
                case.body["count"] = min(case.body["count"], 3)  # a million tokens would be right, and slow
            session = running.session_for(case.path)
            response = case.call(
                base_url=running.url, session=session, verify=session.verify, cert=session.cert, timeout=PATIENCE
            )
            case.validate_response(response, checks=CHECKS)

        call()
    assert called > EXAMPLES


def test_right_calls_on_what_exists_succeed(running: Running) -> None:
    """Generated ids name nothing: so that success is seen too, one consent is really read."""
    shown = running.session.get(f"{running.url}/consents/{running.consent_id}", timeout=PATIENCE)
    assert (shown.status_code, shown.json()["edps"]) == (200, grant_form()["edps"])
