"""The stored form of a token record: pinned for ever, and readable after fields were added."""

import msgspec
import pytest

from engine.clock import UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentKey
from engine.tokens.keys import KeySet
from engine.tokens.token_records import (
    ForgedTokenRecord,
    TokenGrant,
    TokenRecord,
    restored_token,
    seal_token_record,
    token_record,
    unseal_token_record,
)
from engine.tokens.verify import VerifiedToken, verify
from tests.support.pki import CONSENT_ID, METER_KEY, NOW, MakeToken

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
    x5t_s256="QXx3Y8TjIKa3R7PLDG0i-TdBspoytIWUuOtMFE_m1yk",
    not_before=UnixTime(1_795_341_600),
)
PINNED = (
    "3e27c485fa04c491ae03a5bd32e0c7359aa56564702d31a56174702d31ce6b02bd20ce6b02bf78c410727272727272727272"
    "72727272727272c42074747474747474747474747474747474747474747474747474747474747474749198c4106363636363"
    "6363636363636363636363b568682d656c6563747269636974792d696d706f727402ce6ce3f0a0ce692189a0c091c4106d6d"
    "6d6d6d6d6d6d6d6d6d6d6d6d6d6dc0d92b515878335938546a494b61335237504c444730692d54644273706f797449575575"
    "4f744d46455f6d31796bc0ce6b02bd20"
)
# Before it said what the token is bound to.
EARLIER = (
    "7baacd553216f4b1a5f37ccb1b75fafb97a56564702d31a56174702d31ce6b02bd20ce6b02bf78c410727272727272727272"
    "72727272727272c42074747474747474747474747474747474747474747474747474747474747474749198c4106363636363"
    "6363636363636363636363b568682d656c6563747269636974792d696d706f727402ce6ce3f0a0ce692189a0c091c4106d6d"
    "6d6d6d6d6d6d6d6d6d6d6d6d6d6dc0"
)


def test_sealed_bytes_are_these_for_ever() -> None:
    assert seal_token_record(RECORD, DIGEST, KEY).hex() == PINNED
    assert unseal_token_record(bytes.fromhex(PINNED), DIGEST, (KEY,)) == RECORD


def test_earlier_record_is_read_as_one_that_does_not_say_what_binds_it() -> None:
    without = msgspec.structs.replace(RECORD, x5t_s256=None, not_before=None)
    assert unseal_token_record(bytes.fromhex(EARLIER), DIGEST, (KEY,)) == without


def test_record_of_a_newer_issuer_is_read_by_an_older_engine() -> None:
    longer = msgspec.msgpack.encode([*msgspec.to_builtins(RECORD, builtin_types=(bytes,)), "a field to come"])
    sealed = seal_token_record(msgspec.Raw(longer), DIGEST, KEY)  # type: ignore[arg-type] - bytes made elsewhere
    assert unseal_token_record(sealed, DIGEST, (KEY,)) == RECORD


def test_sealed_nonsense_is_refused() -> None:
    sealed = seal_token_record(msgspec.Raw(b"\xc0"), DIGEST, KEY)  # type: ignore[arg-type] - bytes made elsewhere
    with pytest.raises(ForgedTokenRecord, match="could not be read"):
        unseal_token_record(sealed, DIGEST, (KEY,))


def test_restored_token_is_the_verified_one_without_its_words(make_token: MakeToken, key_set: KeySet) -> None:
    verified = verify(make_token().token, key_set, METER_KEY, NOW)
    assert isinstance(verified, VerifiedToken)
    restored = restored_token(token_record(verified), verified.digest)
    assert token_record(restored) == token_record(verified)
    assert restored.digest == verified.digest
    assert [grant.detail.consent_id for grant in restored.grants] == [CONSENT_ID]
    assert (restored.claims.sub, restored.claims.jti, restored.grants[0].detail.meter_points) == ("", "", ())
