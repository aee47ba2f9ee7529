"""Who and what a node under comparison is asked about: participants, consents, tokens, certificates.

Written to files in wire formats only (feed records, JWK sets, tokens), so that the engine of any revision can be
given the same population: `bench/stand.py` reads it with nothing but that revision's engine.
"""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from admin.authorization.minting import GrantedConsent, Minter, Order
from admin.pki.keys import FileTokenSigner, new_token_key
from engine.clock import Seconds, UnixTime
from engine.consent.records import Certificate, ClientId, ParticipantRecord, Role, Thumbprint
from engine.feed.entries import EntryKind
from engine.tokens.grants import consent_key
from engine.tokens.keys import JwkSet, PublishedKeys
from tests.support.mutual_tls import Authority, thumbprint_of
from tests.support.pki import ISSUER, granted_consent

DAY = 86_400
LIFE = Seconds(3_600.0)  # of a token; longer than any run
MINTERS = 2  # threads: signing leaves the interpreter's lock


class Population:
    """Certificates in `directory`; `consents` consents of atp-1 with the data at edp-1."""

    def __init__(self, directory: Path, consents: int) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.now = UnixTime(int(time.time()))
        self.signer = FileTokenSigner(new_token_key("PS256"))
        self.authority.issue("server")
        self.edp = msgspec.structs.replace(
            self._participant("edp-1", Role.EDP),
            handles_last_known=True,
            max_connections=1_000,
            max_requests_per_second=1_000_000,
        )
        self.atp = self._participant("atp-1", Role.ATP)
        self.consents = [self._consent() for _ in range(consents)]

    def _participant(self, name: str, role: Role) -> ParticipantRecord:
        thumbprint = Thumbprint(thumbprint_of(self.authority.issue(name)[0]))
        certificates = (Certificate(thumbprint, UnixTime(self.now + DAY)),)
        return ParticipantRecord(ClientId(name), role, suspended=False, certificates=certificates)

    def _consent(self) -> GrantedConsent:
        since, until = UnixTime(self.now - DAY), UnixTime(self.now + 400 * DAY)
        return granted_consent(str(uuid.uuid4()), granted_at=since, expires_at=until)

    def tokens(self, count: int) -> list[bytes]:
        """Tokens never seen before, about the consents in turn."""
        minter = Minter(ISSUER, self.signer, LIFE)

        def mint(number: int) -> bytes:
            consent = self.consents[number % len(self.consents)]
            order = Order(self.atp, ClientId("edp-1"), (consent,))
            return minter.mint(order, UnixTime(self.now - 60)).token

        with ThreadPoolExecutor(MINTERS) as pool:
            return list(pool.map(mint, range(count)))

    def write(self) -> None:
        """Keys and feed records, for whichever engine is to hold them."""
        records: list[tuple[int, bytes, Any]] = [
            (EntryKind.CONSENT, consent_key(one.consent_id), one.record) for one in self.consents
        ]
        records += [(EntryKind.PARTICIPANT, one.client_id.encode(), one) for one in (self.edp, self.atp)]
        encode = msgspec.msgpack.encode
        written = {
            "issuer": ISSUER,
            "keys": msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((self.signer.public,)))),
            "records": [(int(kind), key, encode(record)) for kind, key, record in records],
        }
        (self.directory / "population").write_bytes(encode(written))
