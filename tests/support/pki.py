"""A made-up authority, certificates of made-up participants, and tokens from the real minting code.

The authority lives for the whole session; keys are real ones, made once. Certificates are valid now, because TLS
reads the machine's clock; tokens are minted at whatever time a test names.
"""

import functools
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from admin.authorization.minting import GrantedConsent, Minted, Minter, Order
from admin.pki.authority import Authority
from admin.pki.keys import FileTokenSigner, TokenKey, new_token_key
from engine.clock import Seconds, UnixTime
from engine.consent.meter_points import meter_digest
from engine.consent.records import (
    AccessMode,
    Certificate,
    ClientId,
    ConsentId,
    ConsentRecord,
    ParticipantRecord,
    Role,
)
from engine.consent.states import State
from engine.tokens.grants import consent_key
from engine.tokens.keys import JwkSet, KeySet

ISSUER = "https://localhost:8450"
NOW = UnixTime(1_795_341_600)  # 2026-11-22T10:00:00Z, for tests that pass time in
DAY = 86_400
METER_KEY = bytes(range(32))
CONSENT_ID = ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10")
METER_POINT = "mpan:1000000000012"
LIFETIME = Seconds(600.0)

MakeToken = Callable[..., Minted]


class ClientFiles(msgspec.Struct, frozen=True):
    """A participant's certificate on disk, and what the directory keeps of it."""

    client_id: ClientId
    certificate_file: Path
    key_file: Path
    certificate: Certificate


class Pki:
    """The sandbox authority in a directory of the session, and what it issued there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.issued_at = UnixTime(int(time.time()))
        self.authority = Authority.create(directory / "authority", self.issued_at)
        self.ca_file = directory / "authority" / "ca.pem"
        self.server_certificate_file = directory / "server.pem"
        self.server_key_file = directory / "server.key"
        issued = self.authority.issue_server(self.issued_at)
        issued.write(self.server_certificate_file, self.server_key_file)
        self.client = functools.cache(self._client)

    def _client(self, client_id: str) -> ClientFiles:
        issued = self.authority.issue_client(ClientId(client_id), self.issued_at)
        certificate_file, key_file = self.directory / f"{client_id}.pem", self.directory / f"{client_id}.key"
        issued.write(certificate_file, key_file)
        return ClientFiles(ClientId(client_id), certificate_file, key_file, issued.registered)

    def participant(self, client_id: str, role: Role, **fields: object) -> ParticipantRecord:
        """A directory record whose one certificate is this client's."""
        certificates = (self.client(client_id).certificate,)
        record = ParticipantRecord(ClientId(client_id), role, suspended=False, certificates=certificates)
        return msgspec.structs.replace(record, **fields)

    def server_context(self) -> ssl.SSLContext:
        """A server that requires a client certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.server_certificate_file, self.server_key_file)
        context.load_verify_locations(self.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    def client_context(self, client_id: str | None = None) -> ssl.SSLContext:
        """A client that trusts this authority only; with the certificate of `client_id`, or with none."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if client_id is not None:
            files = self.client(client_id)
            context.load_cert_chain(files.certificate_file, files.key_file)
        return context


def consent_record(
    consent_id: str = CONSENT_ID, meter_points: tuple[str, ...] = (METER_POINT,), **fields: object
) -> ConsentRecord:
    """An active, enduring consent of atp-1's with the data at edp-1, granted the day before NOW, for a year."""
    key = consent_key(consent_id)
    record = ConsentRecord(
        state=State.ACTIVE,
        consent_version=1,
        atp=ClientId("atp-1"),
        dataset_id="hh-electricity-import",
        access_mode=AccessMode.ENDURING,
        granted_at=UnixTime(NOW - DAY),
        expires_at=UnixTime(NOW + 365 * DAY),
        data_from=UnixTime(NOW - 365 * DAY),
        data_to=None,
        meter_digests=tuple(meter_digest(METER_KEY, key, point) for point in meter_points),
        edps=(ClientId("edp-1"),),
    )
    return msgspec.structs.replace(record, **fields)


def granted_consent(
    consent_id: str = CONSENT_ID, meter_points: tuple[str, ...] = (METER_POINT,), **fields: object
) -> GrantedConsent:
    """A consent as the issuer knows it; fields are those of its record."""
    record = consent_record(consent_id, meter_points, **fields)
    return GrantedConsent(ConsentId(consent_id), record, meter_points)


def key_set_of(*signers: FileTokenSigner, issuer: str = ISSUER) -> KeySet:
    """The engine's view of these signers' public keys."""
    return KeySet.from_jwks(msgspec.json.encode(JwkSet(tuple(signer.public for signer in signers))), issuer)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The session's authority, server certificate and participants' certificates."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def token_keys() -> dict[str, TokenKey]:
    """One private token key for each algorithm."""
    return {alg: new_token_key(alg) for alg in ("PS256", "ES256", "EdDSA")}


@pytest.fixture(scope="session")
def token_signer(token_keys: dict[str, TokenKey]) -> FileTokenSigner:
    """The issuer's signer: PS256, the default."""
    return FileTokenSigner(token_keys["PS256"])


@pytest.fixture
def key_set(token_signer: FileTokenSigner) -> KeySet:
    """The issuer's key set as an engine reads it; new for each test, because it remembers headers."""
    return key_set_of(token_signer)


@pytest.fixture(scope="session")
def make_token(pki: Pki, token_signer: FileTokenSigner) -> MakeToken:
    """Mint a token by the real code: make_token(edp="edp-1", atp="atp-1", consents=(…,), now=NOW, signer=…)."""

    def make(
        edp: str = "edp-1",
        atp: str = "atp-1",
        consents: tuple[GrantedConsent, ...] | None = None,
        now: UnixTime = NOW,
        signer: FileTokenSigner = token_signer,
        issuer: str = ISSUER,
        lifetime: Seconds = LIFETIME,
    ) -> Minted:
        if consents is None:
            consents = (granted_consent(atp=ClientId(atp), edps=(ClientId(edp),)),)
        record = pki.participant(atp, Role.ATP)
        return Minter(issuer, signer, lifetime).mint(Order(record, ClientId(edp), consents), now)

    return make
