"""Private keys: how they lie on disk, and that each kind does its own work only."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from admin.pki.key_files import BadKeyFile, generate_secret, load_secret, read_private, write_private, write_public
from admin.pki.keys import (
    FileCertificateSigner,
    FileCheckpointSigner,
    FileTokenSigner,
    generate_p256_key,
    generate_token_key,
    private_pem,
    sign_jws,
    verify_checkpoint,
)

ALGORITHMS = ("PS256", "ES256", "EdDSA")


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_token_key_is_made_and_read_again(alg: str, tmp_path: Path) -> None:
    made = generate_token_key(tmp_path / "k.pem", alg)
    read = FileTokenSigner.load(tmp_path / "k.pem")
    assert read.public == made.public
    assert (read.public.alg, read.public.use) == (alg, "sig")
    assert not read.public.is_secret()


@pytest.mark.parametrize("alg", ["RS256", "HS256", "none", ""])
def test_token_key_of_another_algorithm_is_not_made(alg: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not signed with"):
        generate_token_key(tmp_path / "k.pem", alg)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o610, 0o644, 0o777])
def test_key_that_others_may_touch_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    generate_token_key(path, "ES256")
    path.chmod(mode)
    with pytest.raises(BadKeyFile, match=f"chmod 600 {path}"):
        FileTokenSigner.load(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_key_that_only_its_owner_may_touch_is_read(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    generate_token_key(path, "ES256")
    path.chmod(mode)
    assert FileTokenSigner.load(path).public.alg == "ES256"


def test_file_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        generate_secret(tmp_path / "s")
    finally:
        os.umask(before)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


def test_key_is_never_overwritten_and_leaves_no_draft(tmp_path: Path) -> None:
    write_private(tmp_path / "k", b"first")
    with pytest.raises(BadKeyFile, match="exists"):
        write_private(tmp_path / "k", b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert read_private(tmp_path / "k") == b"first"


def test_certificate_is_written_over_and_readable_by_all(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_public(tmp_path / "c.pem", content)
    assert (tmp_path / "c.pem").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["c.pem"]


def test_place_that_is_not_there_is_told(tmp_path: Path) -> None:
    for write in (write_private, write_public):
        with pytest.raises(BadKeyFile, match="No such file"):
            write(tmp_path / "no" / "k", b"x")
    with pytest.raises(BadKeyFile, match="No such file"):
        read_private(tmp_path / "k")
    with pytest.raises(BadKeyFile, match="not a file"):
        read_private(tmp_path)


def test_secret_has_32_bytes(tmp_path: Path) -> None:
    secret = generate_secret(tmp_path / "s")
    assert len(secret) == 32
    assert load_secret(tmp_path / "s") == secret != generate_secret(tmp_path / "t")
    for length in (0, 31, 33, 64):
        path = tmp_path / str(length)
        write_private(path, bytes(length))
        with pytest.raises(BadKeyFile, match=f"holds {length} bytes"):
            load_secret(path)


def _pem(key: object) -> bytes:
    assert isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, dsa.DSAPrivateKey))
    none = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)


def _encrypted() -> bytes:
    lock = serialization.BestAvailableEncryption(b"secret")
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: b"", "no unencrypted PEM"),
        (lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no unencrypted PEM"),
        (_encrypted, "no unencrypted PEM"),
        (lambda: _pem(rsa.generate_private_key(65_537, 1024)), "2048 to 4096 bits"),  # noqa: S505 - weak on purpose
        (lambda: _pem(ec.generate_private_key(ec.SECP384R1())), "on P-256"),
        (lambda: _pem(dsa.generate_private_key(1024)), "another kind"),  # noqa: S505 - weak on purpose
    ],
)
def test_file_that_holds_no_token_key_is_told(make, words: str, tmp_path: Path) -> None:  # noqa: ANN001 - a lambda
    write_private(tmp_path / "k", make())
    with pytest.raises(BadKeyFile, match=words):
        FileTokenSigner.load(tmp_path / "k")


@pytest.mark.parametrize("signer", [FileCertificateSigner, FileCheckpointSigner])
def test_authority_and_checkpoint_keys_are_on_p256(
    signer: type[FileCertificateSigner | FileCheckpointSigner], tmp_path: Path
) -> None:
    generate_token_key(tmp_path / "ed", "EdDSA")
    with pytest.raises(BadKeyFile, match="another kind"):
        signer.load(tmp_path / "ed")
    generate_p256_key(tmp_path / "ec")
    assert signer.load(tmp_path / "ec")


def test_checkpoint_is_verified_by_its_key_and_statement_only(tmp_path: Path) -> None:
    generate_p256_key(tmp_path / "a")
    generate_p256_key(tmp_path / "b")
    signer, other = (FileCheckpointSigner.load(tmp_path / name) for name in "ab")
    signature = signer.sign_checkpoint(b"statement")
    assert len(signature) == 64
    assert verify_checkpoint(signer.public_pem, b"statement", signature)
    assert not verify_checkpoint(signer.public_pem, b"another", signature)
    assert not verify_checkpoint(other.public_pem, b"statement", signature)
    for bad in (b"", signature[:-1], bytes(64), signature + b"\x00", bytes([signature[0] ^ 1]) + signature[1:]):
        assert not verify_checkpoint(signer.public_pem, b"statement", bad)
    assert not verify_checkpoint(b"junk", b"statement", signature)


def test_signature_of_one_kind_never_passes_for_another(tmp_path: Path) -> None:
    """Were one key used for tokens and checkpoints by mistake, the statements would still be kept apart."""
    key = generate_p256_key(tmp_path / "a")
    signer = FileCheckpointSigner.load(tmp_path / "a")
    assert not verify_checkpoint(signer.public_pem, b"header.payload", sign_jws(key, b"header.payload"))


def test_private_half_is_pkcs8_pem() -> None:
    assert private_pem(ec.generate_private_key(ec.SECP256R1())).startswith(b"-----BEGIN PRIVATE KEY-----")
