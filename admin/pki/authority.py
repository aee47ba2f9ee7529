"""The sandbox's own certificate authority, in one directory: a P-256 key, its certificate, and what it issues.

A real installation brings an issuing authority of its own; what participants are known by is the thumbprint of a
registered certificate, whoever issued it.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from admin.pki import profiles
from admin.pki.key_files import BadKeyFile, write_private, write_public
from admin.pki.keys import CertificateSigner, FileCertificateSigner, generate_p256_key, private_pem
from engine.clock import UnixTime
from engine.consent.records import Certificate, ClientId, Thumbprint

KEY_FILE: Final = "ca.key"
CERTIFICATE_FILE: Final = "ca.pem"


class Issued(msgspec.Struct, frozen=True):
    """A certificate with its new key. PEM; the key is PKCS #8 and must be written with `key_files.write_private`."""

    certificate: bytes
    key: bytes
    registered: Certificate  # what the directory keeps of it

    def __repr__(self) -> str:
        """Without the key, wherever it may be printed."""
        return f"Issued({self.registered})"

    def write(self, certificate_file: Path, key_file: Path) -> None:
        """Write both, the key first and readable by its owner only. Raises BadKeyFile when the key file exists."""
        write_private(key_file, self.key)
        write_public(certificate_file, self.certificate)


class Authority:
    """Issues certificates by the profiles. Makes the leaf's key too, which only a sandbox may do."""

    def __init__(self, signer: CertificateSigner, certificate: x509.Certificate) -> None:
        self._signer = signer
        self._certificate = certificate

    @classmethod
    def create(cls, directory: Path, now: UnixTime) -> "Authority":
        """Make a new authority in a directory that has none. Raises BadKeyFile when it has.

        A key without a certificate is what a start that was cut short left behind: it is taken up.
        """
        if (directory / CERTIFICATE_FILE).exists():
            raise BadKeyFile(f"{directory}: has an authority already")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_file = directory / KEY_FILE
        if not key_file.exists():
            generate_p256_key(key_file)
        signer = FileCertificateSigner.load(key_file)
        certificate = signer.sign_certificate(profiles.authority_draft(signer.public_key, now))
        write_public(directory / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM))
        return cls(signer, certificate)

    @classmethod
    def open(cls, directory: Path) -> "Authority":
        """Go on with an authority. Raises BadKeyFile: a file missing or open to others, key and certificate apart."""
        signer = FileCertificateSigner.load(directory / KEY_FILE)
        path = directory / CERTIFICATE_FILE
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except OSError as error:
            raise BadKeyFile(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise BadKeyFile(f"{path}: holds no PEM certificate") from error
        if certificate.public_key() != signer.public_key:
            raise BadKeyFile(f"{path}: does not belong to the key beside it")
        return cls(signer, certificate)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate: the trust anchor of all it issued."""
        return self._certificate.public_bytes(Encoding.PEM)

    def issue_server(self, now: UnixTime, names: Sequence[str] = profiles.LOOPBACK_NAMES) -> Issued:
        """A server certificate for DNS names and addresses. Raises profiles.BadSubject."""
        return self._issue(lambda key: profiles.server_draft(names, key, self._certificate, now))

    def issue_client(self, client_id: ClientId, now: UnixTime) -> Issued:
        """A participant's transport certificate. Raises profiles.BadSubject."""
        return self._issue(lambda key: profiles.client_draft(client_id, key, self._certificate, now))

    def _issue(self, draw_up: Callable[[ec.EllipticCurvePublicKey], x509.CertificateBuilder]) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())  # 20 us to sign with in a handshake, where RSA-2048 takes 300
        certificate = self._signer.sign_certificate(draw_up(key.public_key()))
        return Issued(certificate.public_bytes(Encoding.PEM), private_pem(key), registered(certificate))


def registered(certificate: x509.Certificate) -> Certificate:
    """What the directory keeps of a certificate: the thumbprint of its DER (RFC 8705 section 3.1) and its end."""
    der = certificate.public_bytes(Encoding.DER)
    end = UnixTime(int(certificate.not_valid_after_utc.timestamp()))
    return Certificate(Thumbprint(hashlib.sha256(der).digest()), end)
