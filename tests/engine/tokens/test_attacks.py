"""Every known way to make a token that is not one (RFC 8725, introspection sheet section 8 rows 18 to 28)."""

import pytest

from engine.tokens.grants import KnownDetails
from engine.tokens.keys import KeySet
from engine.tokens.verify import TokenRefusal, VerifiedToken, verify
from tests.support.bad_tokens import BAD_TOKENS, Forge
from tests.support.pki import METER_KEY, NOW, MakeToken


@pytest.fixture(scope="module")
def forge(make_token: MakeToken, token_keys: dict) -> Forge:
    return Forge(make_token(), token_keys)


def test_what_the_forge_varies_is_itself_good(forge: Forge, key_set: KeySet) -> None:
    """Else the refusals below would prove nothing."""
    for token in (forge.good, forge.signed(), forge.headed(), forge.claiming(), forge.detailed()):
        assert isinstance(verify(token, key_set, METER_KEY, NOW), VerifiedToken)


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_bad_token_is_refused_for_the_right_reason(name: str, forge: Forge, key_set: KeySet) -> None:
    make, refusal = BAD_TOKENS[name]
    assert verify(make(forge), key_set, METER_KEY, NOW) is refusal


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_bad_token_is_refused_after_good_ones_too(name: str, forge: Forge, key_set: KeySet) -> None:
    """The set then remembers the good header: that must open no way around a check."""
    make, refusal = BAD_TOKENS[name]
    assert isinstance(verify(forge.good, key_set, METER_KEY, NOW), VerifiedToken)
    assert verify(make(forge), key_set, METER_KEY, NOW) is refusal


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_bad_token_is_refused_where_its_details_are_known(name: str, forge: Forge, key_set: KeySet) -> None:
    """Details of good tokens are not read again: that must open no way around a check either."""
    make, refusal = BAD_TOKENS[name]
    known = KnownDetails(10)
    for good in (forge.good, forge.signed()):
        assert isinstance(verify(good, key_set, METER_KEY, NOW, known=known), VerifiedToken)
    assert verify(make(forge), key_set, METER_KEY, NOW, known=known) is refusal


def test_forgeries_are_security_events_and_honest_mistakes_are_not() -> None:
    attacks = {TokenRefusal.ALGORITHM, TokenRefusal.HEADER, TokenRefusal.SIGNATURE}
    assert {refusal for refusal in TokenRefusal if refusal.is_attack} == attacks


def test_every_refusal_occurs_in_the_table() -> None:
    assert {refusal for _, refusal in BAD_TOKENS.values()} == set(TokenRefusal)
