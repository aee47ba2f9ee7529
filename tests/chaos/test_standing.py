"""Consents that last: who is asked about, and when a token is replaced."""

from random import Random

import msgspec

from tests.chaos.judge import Consent
from tests.chaos.knowledge import Token
from tests.chaos.standing import ASKED_UNTIL, LEFT, Standing

WALL = 1_795_341_600.0
LIFE = 600.0


def standing(count: int = 40) -> Standing:
    """As many consents, by turns of two EDPs, with tokens that were issued now."""
    made = Standing(Random(1))  # noqa: S311 - no secret
    for number in range(count):
        token = Token(f"t{number}", f"edp-{number % 2}", Consent(f"c{number}", WALL + 1e6), WALL + LIFE)
        made.add(token, WALL)
    return made


def test_every_consent_is_asked_about_before_any_is_again() -> None:
    made = standing()
    asked = [made.next(1, WALL)[0].token for _ in range(80)]
    assert len(set(asked[:40])) == 40
    assert asked[:40] == asked[40:]


def test_a_batch_is_of_one_edp() -> None:
    made = standing()
    for _ in range(20):
        assert len({token.edp for token in made.next(10, WALL)}) == 1


def test_tokens_are_replaced_all_along_at_first_and_shortly_before_their_end_then() -> None:
    made = standing(400)
    assert not made.due(WALL + LEFT[0] - 1)
    assert 100 < len(made.due(WALL + LIFE / 2)) < 300
    assert len(made.due(WALL + LIFE)) == 400
    held = made.held[0]
    made.replace(held, msgspec.structs.replace(held.token, token="next", expires_at=WALL + 2 * LIFE))
    assert LEFT[0] <= held.token.expires_at - held.replaced_at <= LEFT[1]


def test_an_ended_consent_is_asked_about_while_its_token_lives_and_gets_no_other() -> None:
    made = standing(2)
    taken = made.take(to_end=True)
    assert taken is not None
    assert len({made.next(1, WALL)[0].token for _ in range(4)}) == 2
    late = WALL + LIFE - ASKED_UNTIL + 1
    assert taken.token.token not in {made.next(1, late)[0].token for _ in range(4)}
    assert taken not in made.due(late + LIFE)


def test_each_is_ended_or_renewed_once() -> None:
    made = standing(3)
    renewed = [made.take(to_end=False) for _ in range(4)]
    assert renewed[3] is None
    assert len({id(one) for one in renewed[:3]}) == 3
    assert [made.take(to_end=True) is None for _ in range(4)] == [False, False, False, True]
