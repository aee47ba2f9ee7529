"""Signed checkpoints: ES256 as others compute it, bound to place, hash, time and key."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from joserfc import jws
from joserfc.jwk import ECKey

from admin.ledger.checkpoints import Checkpoint, CheckpointKey, fault_in, sign_checkpoint
from admin.ledger.store import Head
from engine.clock import UnixTime
from engine.config import BadConfig
from engine.feed.entries import Position

HEAD = Head(Position("0123456789abcdef", 7), bytes(range(32)))
PRIVATE = ec.generate_private_key(ec.SECP256R1())
KEY = CheckpointKey(PRIVATE)


def pem(key: Any) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    encoded: bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return encoded


def test_signature_is_right() -> None:
    checkpoint = sign_checkpoint(KEY, HEAD, UnixTime(1_800_000_000))
    assert (checkpoint.seq, checkpoint.hash, checkpoint.kid) == (7, HEAD.hash, KEY.kid)
    assert fault_in(checkpoint, KEY) is None


def test_signature_is_es256_as_another_library_knows_it() -> None:
    message = b"eyJhbGciOiJFUzI1NiJ9.cGF5bG9hZA"
    import base64

    signature = base64.urlsafe_b64encode(KEY.sign(message)).rstrip(b"=")
    found = jws.deserialize_compact(message + b"." + signature, ECKey.import_key(pem(PRIVATE)), ["ES256"])
    assert found.payload == b"payload"


@pytest.mark.parametrize(
    "change", [{"incarnation": "f" * 16}, {"seq": 8}, {"hash": bytes(32)}, {"signed_at": 1}, {"signature": b"short"}]
)
def test_changed_checkpoint_is_refused(change: dict[str, Any]) -> None:
    checkpoint = sign_checkpoint(KEY, HEAD, UnixTime(1_800_000_000))
    assert "signature" in str(fault_in(msgspec.structs.replace(checkpoint, **change), KEY))


def test_checkpoint_of_another_key_is_refused() -> None:
    checkpoint = sign_checkpoint(CheckpointKey(ec.generate_private_key(ec.SECP256R1())), HEAD, UnixTime(1))
    assert "another key" in str(fault_in(checkpoint, KEY))


def test_checkpoint_survives_json() -> None:
    checkpoint = sign_checkpoint(KEY, HEAD, UnixTime(1))
    assert msgspec.json.decode(msgspec.json.encode(checkpoint), type=Checkpoint) == checkpoint


def test_key_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pem"
    path.touch(mode=0o600)
    path.write_bytes(pem(PRIVATE))
    assert CheckpointKey.from_file(path).kid == KEY.kid


@pytest.mark.parametrize(
    "content",
    [None, b"not a key", pem(ec.generate_private_key(ec.SECP384R1())), pem(ed25519.Ed25519PrivateKey.generate())],
    ids=["missing", "garbage", "other curve", "other kind"],
)
def test_bad_key_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "checkpoint.pem"
    if content is not None:
        path.touch(mode=0o600)
        path.write_bytes(content)
    with pytest.raises(BadConfig, match=r"checkpoint\.pem"):
        CheckpointKey.from_file(path)
