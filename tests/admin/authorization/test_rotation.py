"""A key follows another without a good token refused on the way."""

import pytest

from admin.authorization.metadata import key_set
from admin.authorization.rotation import LEAD, Publication, RotationTooEarly, check_rotation, publication_of
from admin.pki.keys import FileTokenSigner, new_token_key
from engine.clock import UnixTime
from engine.tokens.keys import KeySet
from engine.tokens.memo import VerifiedTokens
from engine.tokens.verify import CLOCK_SKEW, TokenRefusal, VerifiedToken, verify
from tests.support.pki import ISSUER, LIFETIME, METER_KEY, NOW, MakeToken

TOKEN_LIFE = int(LIFETIME)


def standing(*kids: str, at: int = NOW) -> Publication:
    return Publication(UnixTime(at), kids)


def check(before: Publication | None, kids: tuple[str, ...], later: int) -> None:
    check_rotation(before, kids, LIFETIME, UnixTime(NOW + later))


def test_first_publication_waits_for_nobody() -> None:
    check(None, ("new",), 0)


@pytest.mark.parametrize("kids", [("old",), ("old", "new"), ("old", "new", "newer")])
def test_key_is_added_behind_the_signing_one_at_any_time(kids: tuple[str, ...]) -> None:
    check(standing("old"), kids, 0)


@pytest.mark.parametrize("kids", [("new", "old"), ("new",)])
def test_key_does_not_sign_before_it_was_published(kids: tuple[str, ...]) -> None:
    with pytest.raises(RotationTooEarly, match="must be published"):
        check(standing("old"), kids, 10**6)


def test_published_key_signs_once_everybody_can_know_it() -> None:
    before = standing("old", "new")
    with pytest.raises(RotationTooEarly, match="new may sign from 2026-11-22T10:10:00Z on"):
        check(before, ("new", "old"), LEAD - 1)
    check(before, ("new", "old"), LEAD)


def test_signing_key_does_not_leave() -> None:
    with pytest.raises(RotationTooEarly, match="old still signs"):
        check(standing("old", "new"), ("new",), 10**6)


def test_old_key_leaves_when_its_last_token_has_ended() -> None:
    before = standing("new", "old")
    with pytest.raises(RotationTooEarly, match="old may leave"):
        check(before, ("new",), TOKEN_LIFE + CLOCK_SKEW - 1)
    check(before, ("new",), TOKEN_LIFE + CLOCK_SKEW)


def test_somebody_must_sign() -> None:
    with pytest.raises(ValueError, match="somebody"):
        check(None, (), 0)


def test_tokens_outlive_their_keys_turn_to_sign_and_no_longer(make_token: MakeToken) -> None:
    """The three steps with real keys, tokens and an engine's view of each publication."""
    old, new = (FileTokenSigner(new_token_key("ES256")) for _ in range(2))
    both = KeySet.from_jwks(key_set([old.public, new.public]), ISSUER)
    memo = VerifiedTokens(10)

    turned = UnixTime(NOW + LEAD)  # at this instant the old key has signed its last token
    check_rotation(standing(old.public.kid, new.public.kid), [new.public.kid, old.public.kid], LIFETIME, turned)
    last_of_old = make_token(signer=old, now=turned)
    first_of_new = make_token(signer=new, now=turned)
    rotated = both.replace(key_set([new.public, old.public]))
    for keys in (both, rotated):  # an engine that has not heard of the turn takes both tokens, as the others do
        for minted in (last_of_old, first_of_new):
            found = verify(minted.token, keys, METER_KEY, turned)
            assert isinstance(found, VerifiedToken)
            memo.put(found)

    over = UnixTime(turned + TOKEN_LIFE + CLOCK_SKEW)
    before = publication_of(turned, key_set([new.public, old.public]))
    assert before == Publication(turned, (new.public.kid, old.public.kid))
    check_rotation(before, [new.public.kid], LIFETIME, over)
    assert last_of_old.claims.exp <= over
    alone = rotated.replace(key_set([new.public]))
    assert verify(last_of_old.token, alone, METER_KEY, turned) is TokenRefusal.UNKNOWN_KEY
    assert memo.get(last_of_old.digest, alone, turned) is None
    assert memo.get(first_of_new.digest, alone, turned) is not None


def test_publication_that_is_no_key_set_is_told() -> None:
    with pytest.raises(ValueError, match="not a key set"):
        publication_of(NOW, b"{}")
