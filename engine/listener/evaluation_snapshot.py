"""One moment of a request for evaluations: what its items need, read from one replica transaction and remembered.

Each token and its consents are read once. A token that stood for something is remembered with all that this rests on,
and used again in later snapshots as long as nothing of it has changed.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from engine.consent.records import ClientId, ConsentKey, ConsentRecord, ParticipantRecord, PolicyRecord
from engine.decision.evaluations import Circumstances, Flaw, Standing, standing
from engine.decision.freshness import Bound, FreshnessState
from engine.decision.questions import ClaimResult, Miss, Records
from engine.listener.digests import UNRESOLVED, Resolved, TokenDigests, Unresolved
from engine.listener.evaluation_request import Item
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.known import still_holds
from engine.listener.read_through import Found, newer_consent
from engine.replica.reader import View
from engine.tokens.answer_keys import AnswerSigner
from engine.tokens.claims import VerifiedToken
from engine.tokens.keys import KeySet

MAX_KEPT: Final = 32_768  # readings of tokens, kept while what they rest on is the same


class Bearer(msgspec.Struct, frozen=True, gc=False):
    """What is known of one token of the batch, for one caller, while it is judged."""

    token: VerifiedToken | None
    records: Records
    standing: Standing | None = None


class Gathered(msgspec.Struct):
    """What awaiting has brought so far. claims: by item."""

    tokens: dict[str, Resolved] = {}
    looked: set[ConsentKey] = set()
    found: Found = {}
    claims: dict[int, tuple[ConsentKey, ClaimResult]] = {}


class Snapshot(msgspec.Struct, frozen=True):
    """One moment, and what is still to be looked for."""

    under: Circumstances
    caller: ParticipantRecord
    policy: PolicyRecord
    bound: Bound
    signer: AnswerSigner | None  # None: a plain answer
    bearers: dict[str, Bearer | Unresolved]
    unknown_tokens: list[str]
    unread: list[ConsentKey]

    @property
    def is_whole(self) -> bool:
        return not self.unknown_tokens and not self.unread


class _Kept(msgspec.Struct, gc=False):
    """A `known.Ground` of a token that stands for something: valid in the version, and in later ones that agree."""

    version: int
    caller: ClientId
    token: VerifiedToken
    records: Records
    values: tuple[bytes | None, ...]
    bearer: Bearer


class Bearers:
    """Reads the tokens of batches. One per worker: it remembers what it has read."""

    def __init__(self, digests: TokenDigests, keys: IssuerKeys) -> None:
        self._digests = digests
        self._keys = keys
        self._kept: dict[str, _Kept] = {}

    @property
    def known(self) -> Mapping[str, object]:
        """The ids of tokens that are remembered; always the same object."""
        return self._kept

    def read(self, view: View, items: Iterable[Item], snapshot: Snapshot, gathered: Gathered | None) -> None:
        """Fill the snapshot: each token and its consents once. Raises Fault."""
        version, caller = view.moment.version, snapshot.under.caller
        keys = self._keys.current(view)
        kept, bearers = self._kept.get, snapshot.bearers
        for item in items:
            if type(item) is Flaw:
                continue
            token_id = item.token_id  # type: ignore[union-attr] # mypy does not narrow by type()
            if token_id in bearers:
                continue
            known = kept(token_id)
            if (
                known is not None
                and known.caller == caller
                and (known.version == version or _holds(known, view, snapshot.caller, keys))
            ):
                known.version = version
                bearers[token_id] = known.bearer
            else:
                self._read_token(view, token_id, snapshot, keys, gathered)

    def _read_token(
        self, view: View, token_id: str, snapshot: Snapshot, keys: KeySet, gathered: Gathered | None
    ) -> None:
        token = self._resolve(token_id, snapshot, keys, gathered)
        if token is UNRESOLVED:
            snapshot.bearers[token_id] = UNRESOLVED
            return
        records = _records(view, snapshot, token, gathered)
        missing = (
            [grant.key for grant, found in zip(token.grants, records.consents, strict=True) if found is Miss.UNREAD]
            if token is not None and records.consents
            else []
        )
        snapshot.unread.extend(missing)
        snapshot.bearers[token_id] = Bearer(token, records)
        if token is not None and all(type(found) is not Miss for found in records.consents) and gathered is None:
            bearer = Bearer(token, records, standing(token, records, snapshot.under))
            snapshot.bearers[token_id] = bearer
            values = tuple([view.consent_value(grant.key) for grant in token.grants])
            self._keep(token_id, _Kept(view.moment.version, snapshot.under.caller, token, records, values, bearer))

    def _keep(self, token_id: str, kept: _Kept) -> None:
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[token_id] = kept

    def _resolve(self, token_id: str, snapshot: Snapshot, keys: KeySet, gathered: Gathered | None) -> Resolved:
        token: Resolved = self._digests.known(token_id, keys, snapshot.under.now)
        if token is None:
            if gathered is None or token_id not in gathered.tokens:
                snapshot.unknown_tokens.append(token_id)
                return UNRESOLVED
            token = gathered.tokens[token_id]
        if type(token) is VerifiedToken and token.key_thumbprint not in keys.thumbprints:
            # The issuer may have published the key since this node was current.
            return None if snapshot.under.freshness.state is FreshnessState.CURRENT else UNRESOLVED
        return token


def of_nobody(caller: ParticipantRecord, policy: PolicyRecord) -> Records:
    """What the decision may know of a token that is nobody's."""
    return Records(caller, None, (), False, policy)  # noqa: FBT003 - token_revoked


def _holds(known: _Kept, view: View, caller: ParticipantRecord, keys: KeySet) -> bool:
    """Whether nothing that was read of a token has changed, although something has. False also where it is not told."""
    return (
        known.records.edp is caller
        and not known.records.token_revoked
        and known.token.key_thumbprint in keys.thumbprints
        and still_holds(known, view)
    )


def _records(view: View, snapshot: Snapshot, token: VerifiedToken | None, gathered: Gathered | None) -> Records:
    """What the decision may know. Of a token that is not for this caller: nothing."""
    if token is None or token.claims.aud != snapshot.under.caller:
        return of_nobody(snapshot.caller, snapshot.policy)
    consents: list[ConsentRecord | Miss] = []
    for grant in token.grants:
        record = view.consent(grant.key)
        if record is not None:
            consents.append(record)
        elif gathered is None or grant.key not in gathered.looked:
            consents.append(Miss.UNREAD)
        else:
            consents.append(newer_consent(gathered.found, grant.key, view.bound) or Miss.UNKNOWN)
    return Records(
        snapshot.caller,
        view.participant(token.claims.client_id),
        tuple(consents),
        view.token_revoked(token.revocation_key),
        snapshot.policy,
    )
