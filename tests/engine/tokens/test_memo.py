"""The memo of verified tokens: bounded, never stale, never holding what no key verified."""

import hashlib

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from admin.pki.keys import FileTokenSigner, TokenKey, new_token_key
from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.tokens.claims import AccessToken, Confirmation, VerifiedToken
from engine.tokens.keys import KeySet
from engine.tokens.memo import MemoStatistics, VerifiedTokens
from engine.tokens.verify import verify
from tests.support.pki import ISSUER, METER_KEY, NOW, MakeToken, key_set_of

SIGNERS = tuple(FileTokenSigner(new_token_key("ES256")) for _ in range(3))
SETS = tuple(key_set_of(*signers) for signers in (SIGNERS[:1], SIGNERS[:2], SIGNERS[1:], SIGNERS[2:]))


def token(number: int, signer: FileTokenSigner = SIGNERS[0], exp: int = NOW + 600) -> VerifiedToken:
    """As `verify` would return it; made by hand because signing has no part in what is shown here."""
    claims = AccessToken(
        ISSUER, ClientId("edp-1"), ClientId("atp-1"), "s", str(number), NOW, exp, Confirmation(jkt="A" * 43), ()
    )
    digest = hashlib.sha256(str(number).encode()).digest()
    return VerifiedToken(claims, signer.public.kid, digest, digest[:16], (), signer.public.thumbprint())


def test_verified_token_is_given_out_again(make_token: MakeToken, key_set: KeySet) -> None:
    memo = VerifiedTokens(10)
    found = verify(make_token().token, key_set, METER_KEY, NOW)
    assert isinstance(found, VerifiedToken)
    assert memo.get(found.digest, key_set, NOW) is None
    memo.put(found)
    assert memo.get(found.digest, key_set, NOW) is found
    assert memo.statistics() == MemoStatistics(size=1, hits=1, misses=1)


def test_expired_token_is_forgotten_at_its_second() -> None:
    memo = VerifiedTokens(10)
    memo.put(found := token(1, exp=NOW + 5))
    assert memo.get(found.digest, SETS[0], UnixTime(NOW + 4)) is found
    assert memo.get(found.digest, SETS[0], UnixTime(NOW + 5)) is None
    assert memo.statistics().size == 0


def test_token_leaves_with_its_key() -> None:
    memo = VerifiedTokens(10)
    memo.put(found := token(1, SIGNERS[0]))
    assert memo.get(found.digest, SETS[1], NOW) is found
    assert memo.get(found.digest, SETS[2], NOW) is None
    assert memo.get(found.digest, SETS[1], NOW) is None


def test_another_key_under_the_same_kid_does_not_vouch_for_it(token_keys: dict[str, TokenKey]) -> None:
    def under(kid: str, key: TokenKey) -> KeySet:
        signer = FileTokenSigner(key)
        return KeySet.from_jwks(
            msgspec.json.encode({"keys": [msgspec.structs.replace(signer.public, kid=kid)]}), ISSUER
        )

    memo = VerifiedTokens(10)
    found = msgspec.structs.replace(
        token(1), kid="same", key_thumbprint=FileTokenSigner(token_keys["ES256"]).public.thumbprint()
    )
    memo.put(found)
    assert memo.get(found.digest, under("same", token_keys["ES256"]), NOW) is found
    assert memo.get(found.digest, under("same", new_token_key("ES256")), NOW) is None


def test_token_that_no_key_verified_is_never_given_out() -> None:
    memo = VerifiedTokens(10)
    memo.put(made_up := msgspec.structs.replace(token(1), key_thumbprint=b""))
    assert memo.get(made_up.digest, SETS[0], NOW) is None


def test_oldest_makes_room() -> None:
    memo = VerifiedTokens(2)
    first, second, third = (token(number) for number in range(3))
    for found in (first, second, third):
        memo.put(found)
    assert [memo.get(found.digest, SETS[0], NOW) for found in (first, second, third)] == [None, second, third]


def test_memo_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        VerifiedTokens(0)


class MemoMachine(RuleBasedStateMachine):
    """Against a plain model: whatever is put, whenever, under whichever keys."""

    SIZE = 5

    def __init__(self) -> None:
        super().__init__()
        self.memo = VerifiedTokens(self.SIZE)
        self.now = int(NOW)
        self.keys = SETS[0]
        self.put: dict[bytes, VerifiedToken] = {}

    @rule(number=st.integers(0, 12), signer=st.sampled_from(SIGNERS), life=st.integers(-2, 6))
    def put_one(self, number: int, signer: FileTokenSigner, life: int) -> None:
        found = token(number, signer, self.now + life)
        self.memo.put(found)
        self.put[found.digest] = found
        good = life > 0 and found.key_thumbprint in self.keys.thumbprints
        assert self.memo.get(found.digest, self.keys, UnixTime(self.now)) is (found if good else None)

    @rule(seconds=st.integers(0, 3))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(keys=st.sampled_from(SETS))
    def rotate(self, keys: KeySet) -> None:
        self.keys = keys

    @rule(number=st.integers(0, 12))
    def get_one(self, number: int) -> None:
        digest = token(number).digest
        found = self.memo.get(digest, self.keys, UnixTime(self.now))
        if found is not None:
            assert found is self.put[digest]
            assert found.claims.exp > self.now
            assert found.key_thumbprint in self.keys.thumbprints

    @invariant()
    def bounded(self) -> None:
        assert self.memo.statistics().size <= self.SIZE


TestMemoMachine = MemoMachine.TestCase
TestMemoMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
