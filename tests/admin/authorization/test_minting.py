"""What the issuer puts into a token, what it keeps out, and what it refuses to sign."""

import base64
import uuid

import msgspec
import pytest
import trio

from admin.authorization.minting import CannotMint, GrantedConsent, Minter, Order, TokenTooLarge
from admin.pki.keys import FileTokenSigner, TokenKey
from engine.clock import Seconds, UnixTime, format_utc
from engine.consent.records import AccessMode, Certificate, ClientId, ConsentId, ParticipantRecord, Role, Thumbprint
from engine.consent.states import State
from engine.tokens.claims import MAX_TOKEN_BYTES
from engine.tokens.verify import VerifiedToken, verify
from tests.support.pki import (
    CONSENT_ID,
    DAY,
    ISSUER,
    LIFETIME,
    METER_KEY,
    METER_POINT,
    NOW,
    MakeToken,
    Pki,
    granted_consent,
    key_set_of,
)

EDP = ClientId("edp-1")


@pytest.fixture(scope="module")
def signer(token_keys: dict[str, TokenKey]) -> FileTokenSigner:
    return FileTokenSigner(token_keys["ES256"])  # signs fast


@pytest.fixture(scope="module")
def minter(signer: FileTokenSigner) -> Minter:
    return Minter(ISSUER, signer, LIFETIME)


@pytest.fixture(scope="module")
def atp(pki: Pki) -> ParticipantRecord:
    return pki.participant("atp-1", Role.ATP)


def consent_id(number: int) -> ConsentId:
    return ConsentId(str(uuid.UUID(int=number, version=4)))


def test_claims_are_those_of_rfc_9068_for_one_edp(minter: Minter, atp: ParticipantRecord) -> None:
    claims = minter.mint(Order(atp, EDP, (granted_consent(),)), NOW).claims
    assert (claims.iss, claims.aud, claims.client_id) == (ISSUER, EDP, "atp-1")
    assert (claims.iat, claims.exp) == (NOW, NOW + int(LIFETIME))
    (detail,) = claims.authorization_details
    record = granted_consent().record
    assert msgspec.to_builtins(detail) == {
        "type": "https://ccs.example/rar/energy-consent/v1",
        "consent_id": CONSENT_ID,
        "dataset_id": "hh-electricity-import",
        "access_mode": "enduring",
        "consent_expires_at": format_utc(record.expires_at),
        "data_from": format_utc(record.data_from),
        "meter_points": (METER_POINT,),
    }


def test_detail_carries_window_end_purpose_code_and_locations(minter: Minter, atp: ParticipantRecord) -> None:
    granted = granted_consent(access_mode=AccessMode.ONE_OFF, data_to=UnixTime(NOW - DAY), purpose_code="advice")
    granted = msgspec.structs.replace(granted, locations=("https://api.edp-1.example/hh",))
    (detail,) = minter.mint(Order(atp, EDP, (granted,)), NOW).claims.authorization_details
    assert detail.access_mode == "one_off"
    assert detail.data_to == format_utc(UnixTime(NOW - DAY))
    assert detail.purpose_code == "advice"
    assert detail.locations == ("https://api.edp-1.example/hh",)


def test_token_is_bound_to_the_registered_certificate(minter: Minter, pki: Pki, atp: ParticipantRecord) -> None:
    bound = minter.mint(Order(atp, EDP, (granted_consent(),)), NOW).claims.cnf
    assert bound.x5t_s256 is not None
    assert base64.urlsafe_b64decode(bound.x5t_s256 + "=") == pki.client("atp-1").certificate.thumbprint
    assert bound.jkt is None


def with_certificates(atp: ParticipantRecord, *certificates: Certificate) -> ParticipantRecord:
    return msgspec.structs.replace(atp, certificates=certificates)


def test_newest_certificate_is_taken_unless_the_connection_names_one(minter: Minter, atp: ParticipantRecord) -> None:
    old = Certificate(Thumbprint(b"o" * 32), UnixTime(NOW + DAY))
    new = Certificate(Thumbprint(b"n" * 32), UnixTime(NOW + 2 * DAY))
    gone = Certificate(Thumbprint(b"g" * 32), NOW)
    both = with_certificates(atp, old, new, gone)

    def bound(thumbprint: Thumbprint | None) -> bytes:
        claims = minter.claims(Order(both, EDP, (granted_consent(),), thumbprint), NOW)
        return base64.urlsafe_b64decode(f"{claims.cnf.x5t_s256}=")

    assert bound(None) == new.thumbprint
    assert bound(old.thumbprint) == old.thumbprint
    for unusable in (gone.thumbprint, Thumbprint(b"x" * 32)):
        with pytest.raises(CannotMint, match="no valid certificate"):
            bound(unusable)


def test_token_ends_with_the_first_of_its_consents(minter: Minter, atp: ParticipantRecord) -> None:
    consents = (
        granted_consent(consent_id(1), expires_at=UnixTime(NOW + 300)),
        granted_consent(consent_id(2), expires_at=UnixTime(NOW + 200)),
    )
    assert minter.claims(Order(atp, EDP, consents), NOW).exp == NOW + 200


def test_two_tokens_share_neither_jti_nor_subject(minter: Minter, atp: ParticipantRecord) -> None:
    claims = [minter.claims(Order(atp, EDP, (granted_consent(),)), NOW) for _ in range(100)]
    assert len({one.jti for one in claims}) == len({one.sub for one in claims}) == 100
    assert all(len(one.jti) == 43 and len(one.sub) == 22 for one in claims)  # 256 and 128 bits


def test_subject_of_a_grant_is_kept(minter: Minter, atp: ParticipantRecord) -> None:
    assert minter.claims(Order(atp, EDP, (granted_consent(),), sub="of-the-grant"), NOW).sub == "of-the-grant"


REFUSED = {
    "revoked": {"state": State.REVOKED},
    "only requested": {"state": State.REQUESTED},
    "over": {"expires_at": NOW},
    "another ATP's": {"atp": ClientId("atp-2")},
    "held elsewhere": {"edps": (ClientId("edp-2"), ClientId("edp-3"))},
    "held nowhere": {"edps": ()},
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_token_for_a_consent_that_does_not_allow_it(name: str, minter: Minter, atp: ParticipantRecord) -> None:
    good = granted_consent(consent_id(1))
    with pytest.raises(CannotMint):
        minter.mint(Order(atp, EDP, (good, granted_consent(**REFUSED[name]))), NOW)


def test_no_token_without_consent_or_meter_point_or_naming_one_twice(minter: Minter, atp: ParticipantRecord) -> None:
    erased = msgspec.structs.replace(granted_consent(), meter_points=())
    for consents in ((), (erased,), (granted_consent(), granted_consent())):
        with pytest.raises(CannotMint):
            minter.mint(Order(atp, EDP, consents), NOW)


@pytest.mark.parametrize("fields", [{"suspended": True}, {"role": Role.EDP}, {"certificates": ()}])
def test_no_token_for_a_client_that_is_no_atp_in_good_standing(
    fields: dict[str, object], minter: Minter, atp: ParticipantRecord
) -> None:
    with pytest.raises(CannotMint):
        minter.mint(Order(msgspec.structs.replace(atp, **fields), EDP, (granted_consent(),)), NOW)


def test_token_is_four_kib_at_most(minter: Minter, atp: ParticipantRecord) -> None:
    points = tuple(f"mprn:{number:010}" for number in range(10))

    def consents(count: int) -> tuple[GrantedConsent, ...]:
        return tuple(granted_consent(consent_id(number), points) for number in range(count))

    sizes = [len(minter.mint(Order(atp, EDP, consents(count)), NOW).token) for count in range(1, 5)]
    assert sizes[-1] <= MAX_TOKEN_BYTES
    with pytest.raises(TokenTooLarge, match="4096"):
        minter.mint(Order(atp, EDP, consents(7)), NOW)


@pytest.mark.parametrize("lifetime", [0.0, 0.9, -1.0])
def test_lifetime_below_a_second_is_refused(lifetime: float, signer: FileTokenSigner) -> None:
    with pytest.raises(ValueError, match="at least a second"):
        Minter(ISSUER, signer, Seconds(lifetime))


async def test_many_are_minted_in_order_and_all_verify(
    minter: Minter, signer: FileTokenSigner, atp: ParticipantRecord
) -> None:
    orders = [Order(atp, EDP, (granted_consent(consent_id(number)),)) for number in range(600)]
    minted = await minter.mint_many(orders, NOW)
    keys = key_set_of(signer)
    for number, one in enumerate(minted):
        found = verify(one.token, keys, METER_KEY, NOW)
        assert isinstance(found, VerifiedToken)
        assert (found.digest, found.kid, found.key_thumbprint) == (one.digest, one.kid, one.key_thumbprint)
        assert found.grants[0].detail.consent_id == consent_id(number)


async def test_many_are_minted_all_or_none(minter: Minter, atp: ParticipantRecord) -> None:
    good = Order(atp, EDP, (granted_consent(),))
    with pytest.raises(CannotMint):
        await minter.mint_many([good, Order(atp, EDP, ())], NOW)
    assert await minter.mint_many([], NOW) == []


async def test_cancelled_caller_is_free_after_one_batch(minter: Minter, atp: ParticipantRecord) -> None:
    orders = [Order(atp, EDP, (granted_consent(),))] * 100_000
    with trio.move_on_after(0.001) as scope:
        await minter.mint_many(orders, NOW)
    assert scope.cancelled_caught


def test_purpose_in_words_has_no_way_into_a_token(make_token: MakeToken) -> None:
    """`ConsentDetail` has no such member, and verification refuses members it does not have."""
    assert "purpose" not in {
        field.name for field in msgspec.structs.fields(type(make_token().claims.authorization_details[0]))
    }


def test_printed_token_shows_no_token(make_token: MakeToken) -> None:
    minted = make_token()
    assert repr(minted) == f"Minted({minted.digest[:8].hex()})"
