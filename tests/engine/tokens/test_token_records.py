"""The stored form of a token record: pinned for ever, and readable after fields were added."""

import msgspec
import pytest

from engine.clock import UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentKey
from engine.tokens.token_records import (
    ForgedTokenRecord,
    TokenGrant,
    TokenRecord,
    seal_token_record,
    unseal_token_record,
)

DIGEST, KEY = bytes(32), bytes(range(32))
RECORD = TokenRecord(
    edp=ClientId("edp-1"),
    client_id=ClientId("atp-1"),
    issued_at=UnixTime(1_795_341_600),
    expires_at=UnixTime(1_795_342_200),
    revocation_key=b"r" * 16,
    key_thumbprint=b"t" * 32,
    grants=(
        TokenGrant(
            key=ConsentKey(b"c" * 16),
            dataset_id="hh-electricity-import",
            access_mode=AccessMode.ENDURING,
            expires_at=UnixTime(1_826_877_600),
            data_from=UnixTime(1_763_805_600),
            data_to=None,
            meter_digests=(b"m" * 16,),
        ),
    ),
)
PINNED = (
    "7baacd553216f4b1a5f37ccb1b75fafb97a56564702d31a56174702d31ce6b02bd20ce6b02bf78c410727272727272727272"
    "72727272727272c42074747474747474747474747474747474747474747474747474747474747474749198c4106363636363"
    "6363636363636363636363b568682d656c6563747269636974792d696d706f727402ce6ce3f0a0ce692189a0c091c4106d6d"
    "6d6d6d6d6d6d6d6d6d6d6d6d6d6dc0"
)


def test_sealed_bytes_are_these_for_ever() -> None:
    assert seal_token_record(RECORD, DIGEST, KEY).hex() == PINNED
    assert unseal_token_record(bytes.fromhex(PINNED), DIGEST, (KEY,)) == RECORD


def test_record_of_a_newer_issuer_is_read_by_an_older_engine() -> None:
    longer = msgspec.msgpack.encode([*msgspec.to_builtins(RECORD, builtin_types=(bytes,)), "a field to come"])
    sealed = seal_token_record(msgspec.Raw(longer), DIGEST, KEY)  # type: ignore[arg-type] - bytes made elsewhere
    assert unseal_token_record(sealed, DIGEST, (KEY,)) == RECORD


def test_sealed_nonsense_is_refused() -> None:
    sealed = seal_token_record(msgspec.Raw(b"\xc0"), DIGEST, KEY)  # type: ignore[arg-type] - bytes made elsewhere
    with pytest.raises(ForgedTokenRecord, match="could not be read"):
        unseal_token_record(sealed, DIGEST, (KEY,))
