"""Numbers in the service's listings: what no database holds is no listing, and nothing of it is taken."""

import json
from typing import Any

import pytest

from engine.guard.transmitter import Changes, NotTold, Page
from engine.guard.transmitter_https import _decode
from tests.support.told import consent_id

CONSENT: dict[str, Any] = {
    "seq": 7, "consent_id": consent_id(1), "consent_version": 2, "state": "revoked", "client_id": "atp-1",
    "effective_at": 1_795_341_599,
}  # fmt: skip
PARTY: dict[str, Any] = {"seq": 8, "client_id": "atp-1", "party_version": 1, "suspended": True}


def listing(consent: dict[str, Any] = CONSENT, party: dict[str, Any] = PARTY, as_of: int = 9) -> bytes:
    members = {"as_of_seq": as_of, "incarnation": "0" * 16, "consents": [consent], "parties": [party]}
    return json.dumps(members).encode()


def test_a_listing_is_read() -> None:
    assert _decode(listing(), Changes).consents[0].consent_version == 2
    assert _decode(listing(), Page).parties[0].suspended


@pytest.mark.parametrize("number", [-1, 2**63, 10**30])
@pytest.mark.parametrize("kind", [Changes, Page])
def test_a_number_that_no_database_holds_is_no_listing(number: int, kind: type[Changes] | type[Page]) -> None:
    bodies = [listing(as_of=number)]
    bodies += [listing(CONSENT | {name: number}) for name in ("seq", "consent_version", "effective_at", "expires_at")]
    bodies += [listing(party=PARTY | {name: number}) for name in ("seq", "party_version")]
    for body in bodies:
        with pytest.raises(NotTold):
            _decode(body, kind)
