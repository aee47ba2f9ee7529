"""What every world begins with: participants, a policy, consents, tokens. Made once a process; worlds get copies."""

import functools
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from unittest import mock

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import event
from sqlalchemy.pool import StaticPool

from admin.authorization.minting import GrantedConsent, Minter, Order
from admin.consents.commands import grant
from admin.consents.forms import read_grant
from admin.ledger import genesis
from admin.ledger.checkpoints import CheckpointKey
from admin.ledger.database import _begin_sqlite
from admin.ledger.events import Act, Initiator, PolicyChanged, Route, append_of
from admin.ledger.personal import Safe
from admin.ledger.store import Append
from admin.ledger.transaction import Transaction, Write
from admin.pki.keys import FileTokenSigner, new_token_key
from engine.clock import Seconds, UnixTime, format_utc
from engine.consent.records import (
    Certificate,
    ClientId,
    ConsentId,
    ConsentRecord,
    OnSilence,
    ParticipantRecord,
    PolicyRecord,
    Role,
    Thumbprint,
)
from engine.feed.entries import EntryKind
from engine.tokens.keys import JwkSet, PublishedKeys
from tests.support.consents import METER_KEY, NOW, grant_form, participants
from tests.support.projection import participant_record_event

ISSUER = "https://ccs.example"
OUTAGE_CAP = Seconds(4.0)  # so short that worlds live to see it
POLICY = PolicyRecord(OnSilence.CONTINUE, OUTAGE_CAP)
SETTLED = UnixTime(NOW - 3600)  # when the consents of the beginning were given
CONSENTS = 60
SHORT = 5  # every so manieth consent ends by itself while the world is played
FAR = UnixTime(NOW + 10 * 86_400)
NODES = ("node-1", "node-2", "node-3", "node-4")
EDPS = (ClientId("edp-1"), ClientId("edp-2"))  # only the first one handles `last_known`

_records = msgspec.msgpack.Decoder(ConsentRecord)


def consent_id(number: int) -> ConsentId:
    return ConsentId(f"00000000-0000-4000-8000-{number:012x}")


def thumbprint(name: str) -> Thumbprint:
    return Thumbprint(sha256(name.encode()).digest())


def party(client_id: str, role: Role, **fields: object) -> ParticipantRecord:
    record = ParticipantRecord(
        ClientId(client_id), role, suspended=False, certificates=(Certificate(thumbprint(client_id), FAR),)
    )
    return msgspec.structs.replace(record, max_requests_per_second=100_000, **fields)


ATP = party("atp-1", Role.ATP)


def granted(number: int, now: UnixTime, *, lives: int = 3 * 86_400) -> Append:
    """The event that grants a consent, by the real command. lives: seconds from NOW."""
    details = {"consent_expires_at": format_utc(UnixTime(NOW + lives))}
    form = read_grant(grant_form(details, edps=list(EDPS)), now)
    act = Act(Initiator.CONSUMER, f"grant-{number}", Route.PORTAL, now)
    return grant(form, participants(), consent_id=consent_id(number), meter_key=METER_KEY, act=act, now=now)


def record_of(append: Append) -> ConsentRecord:
    assert append.feed is not None
    return _records.decode(append.feed.record)


class Template:
    """A ledger's bytes, and what goes with it."""

    def __init__(self) -> None:
        self.safe = Safe(b"p" * 32)
        self.signer = CheckpointKey(ec.generate_private_key(ec.SECP256R1()))
        token_signer = FileTokenSigner(new_token_key("EdDSA"))
        self.keys = msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((token_signer.public,))))
        self._minter = Minter(ISSUER, token_signer, Seconds(86_400.0))
        self.connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.engine = sa.create_engine("sqlite://", poolclass=StaticPool, creator=lambda: self.connection)
        event.listen(self.engine, "begin", _begin_sqlite)
        # Nothing comes between the statements of a reader here: it needs no transaction, nor a connection of its own.
        self.reading = self.engine.connect().execution_options(ccs_begin=None)
        self.expires: dict[ConsentId, UnixTime] = {}
        grants = [
            granted(n, SETTLED, lives=1 + n % 9 if n % SHORT == 0 else 3 * 86_400) for n in range(1, CONSENTS + 1)
        ]
        self.tokens = {
            (consent_id(n), edp): self.token(n, edp, record_of(append), SETTLED)
            for n, append in enumerate(grants, 1)
            for edp in EDPS
        }
        self.image = self._make([*_beginnings(), *grants])

    def token(self, number: int, edp: ClientId, record: ConsentRecord, now: UnixTime) -> bytes:
        """A token for one consent, by the real minting."""
        self.expires[consent_id(number)] = record.expires_at
        consent = GrantedConsent(consent_id(number), record, ("mpan:1000000000012",))
        return self._minter.mint(Order(ATP, edp, (consent,)), now).token

    def _make(self, appends: list[Append]) -> sqlite3.Connection:
        transaction = Transaction(self.safe, self.signer, lambda: SETTLED, lambda: float(SETTLED), 10_000)
        with (
            self.engine.begin() as connection,
            mock.patch.object(genesis.secrets, "token_hex", return_value=f"{1:016x}"),
        ):
            genesis.open_or_create(connection, "sandbox", SETTLED)
            genesis.check_person_key(connection, self.safe)
            transaction.append(connection, [Write((append,)) for append in appends])
        return self.copy()

    def copy(self) -> sqlite3.Connection:
        """The database as it stands."""
        image = sqlite3.connect(":memory:", check_same_thread=False)
        self.connection.backup(image)
        return image

    def go_back(self, image: sqlite3.Connection) -> None:
        """Make the database what it was."""
        image.backup(self.connection)


def _beginnings() -> Iterator[Append]:
    act = Act(Initiator.OPERATOR, "operator-1", Route.CONSOLE, SETTLED)
    yield append_of(PolicyChanged(POLICY, act), 0)
    yield participant_record_event(ATP)
    for edp in EDPS:
        yield participant_record_event(party(edp, Role.EDP, handles_last_known=edp == EDPS[0]))
    for node in NODES:
        yield participant_record_event(party(node, Role.NODE))


@functools.cache
def template() -> Template:
    return Template()


@contextmanager
def fresh() -> Iterator[Template]:
    """The template with its database as it was at the beginning; one world at a time."""
    made = template()
    made.go_back(made.image)
    yield made


CONSENT_KIND = int(EntryKind.CONSENT)
