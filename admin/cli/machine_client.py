"""The running sandbox as a client command meets it: addresses and certificates from `sandbox.json`, calls over mTLS.

Nothing is written beside the service. A refusal keeps the service's own sentence and becomes an exit code.
"""

import json
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol, Self

import httpx2
import msgspec

from admin.cli.running import Client, NotRunning, Sandbox, load_sandbox
from engine.config import BadConfig
from engine.errors import Fault, Kind

TIMEOUT: Final = httpx2.Timeout(60.0, connect=5.0)  # a batch of consents, or a wait for a revocation, may take a while
_KINDS: Final[dict[int, Kind]] = {
    HTTPStatus.BAD_REQUEST: Kind.INVALID,
    HTTPStatus.UNAUTHORIZED: Kind.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: Kind.FORBIDDEN,
    HTTPStatus.NOT_FOUND: Kind.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: Kind.INVALID,
    HTTPStatus.CONFLICT: Kind.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Kind.INVALID,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: Kind.INVALID,
    HTTPStatus.SERVICE_UNAVAILABLE: Kind.UNAVAILABLE,
}


class Door(Protocol):
    """Where the machine API is, and the operator's certificate for it; a `Sandbox` is one."""

    @property
    def admin_mtls_url(self) -> str: ...
    @property
    def ca_file(self) -> Path: ...
    @property
    def operator(self) -> Client: ...


class OperatorsDoor(msgspec.Struct, frozen=True):
    """That of a real installation, as named on the command line."""

    admin_mtls_url: str
    ca_file: Path
    operator: Client


class OperatorClient:
    """Calls to the machine API as an operator."""

    def __init__(self, door: Door, *, patience: float | None = None) -> None:
        """patience: seconds to wait for an answer; None = as long as a batch may take."""
        self._door = door
        context, timeout = _operators_tls(door), TIMEOUT if patience is None else httpx2.Timeout(patience)
        self._http = httpx2.Client(base_url=door.admin_mtls_url, verify=context, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(
        self, method: str, path: str, body: object = None, *, key: str | None = None, **query: str
    ) -> dict[str, Any]:
        """One call. key: of idempotency; drawn where none is given. Raises a Fault with the service's sentence."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4())} if method != "GET" else {}
        with _reaching(self._door):
            response = self._http.request(method, path, json=body, headers=headers, params=query)
        if response.is_error:
            raise refusal(response.status_code, response.content)
        read: dict[str, Any] = response.json()
        return read

    def stream_lines(self, path: str, body: object) -> Iterator[str]:
        """The lines of a streamed answer. Raises as `call`, also when the stream breaks off."""
        with _reaching(self._door), self._http.stream("POST", path, json=body) as response:
            if response.is_error:
                raise refusal(response.status_code, response.read())
            yield from response.iter_lines()


def operator_client(
    state: Path, url: str, ca_file: Path | None, certificate: Path | None, key: Path | None
) -> OperatorClient:
    """The sandbox's operator, or with a url the one that the options name. Raises BadConfig, NotRunning."""
    if not url:
        return OperatorClient(load_sandbox(state))
    if ca_file is None or certificate is None or key is None:
        raise BadConfig("with --url, name --ca-file, --certificate and --key")
    return OperatorClient(OperatorsDoor(url, ca_file, Client("operator", certificate, key)))


class MachineClient(OperatorClient):
    """Calls to the machine API as the sandbox's operator."""

    def __init__(self, sandbox: Sandbox, *, patience: float | None = None) -> None:
        super().__init__(sandbox, patience=patience)
        self.sandbox = sandbox


def _operators_tls(door: Door) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=door.ca_file)
        context.load_cert_chain(door.operator.certificate_file, door.operator.key_file)
    except OSError as error:  # ssl.SSLError is one
        files = f"{door.ca_file}, {door.operator.certificate_file} and its key"
        raise BadConfig(f"{files} cannot be used: {error}") from error
    return context


def refusal(status: int, content: bytes) -> Fault:
    """A problem answer (RFC 9457) as a fault of the kind that its status says."""
    kind = _KINDS.get(status, Kind.BROKEN)
    refused: type[Fault] = type("Refused", (Fault,), {"kind": kind})
    return refused(_sentence(status, content))


def _sentence(status: int, content: bytes) -> str:
    try:
        problem = json.loads(content)
        fields = "; ".join(f"{error['pointer']}: {error['detail']}" for error in problem.get("errors", ()))
        return str(fields or problem.get("detail") or problem["title"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the service answered {status}"


@contextmanager
def _reaching(door: Door) -> Iterator[None]:
    try:
        yield
    except (httpx2.TransportError, OSError) as error:
        raise NotRunning(f"the service at {door.admin_mtls_url} does not answer", detail=repr(error)) from error
