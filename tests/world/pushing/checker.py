"""P4 and P6, held against the whole truth: what was acknowledged, what is known to be missing, what was allowed."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from engine.consent.records import ClientId, ConsentId
from engine.consent.states import ENDED
from engine.events.facts import Change, ConsentFact, PartyFact
from engine.guard.rules import KeptConsent
from engine.guard.shares import Reason, Share, Verdict
from engine.pusher.service import Fate
from engine.tokens.jws import decode_part
from tests.support.guard_words import NOW
from tests.world.pushing.attacker import FORGED
from tests.world.pushing.ledger import ATP, EDPS, Told, digest_of

if TYPE_CHECKING:
    from tests.world.pushing.world import World

WAY: Final = 10.0  # seconds that a yes may have been under way: as long as a question takes at most


class Heard:
    """What one guard has acknowledged, and what it therefore knows to be missing."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, float] = {}  # position to when
        self.ends: dict[str, float] = {}
        self.cuts: dict[str, list[tuple[float, int]]] = {}  # consent to (when, data_to)
        self.parties: list[tuple[float, int, bool]] = []
        self.listed_to = 0  # by listings that began where nothing was missing
        self.announced = 0
        self.missing: dict[int, float] = {}  # position to since when that is known
        self._whole = 0  # index of the first of its events that is neither listed nor acknowledged

    def look(self, told: list[Told], now: float) -> None:
        """What is missing now."""
        while self._whole < len(told) and self._is_there(told[self._whole].seq):
            self._whole += 1
        newest = max(self.announced, max(self.acknowledged, default=0))
        for one in told[self._whole :]:
            if one.seq < newest or one.seq <= self.announced:
                if self._is_there(one.seq):
                    self.missing.pop(one.seq, None)
                else:
                    self.missing.setdefault(one.seq, now)
        for seq in [seq for seq in self.missing if self._is_there(seq)]:
            del self.missing[seq]

    def whole_to(self, told: list[Told]) -> int:
        before = told[self._whole - 1].seq if self._whole else 0
        return max(self.listed_to, before)

    def _is_there(self, seq: int) -> bool:
        return seq <= self.listed_to or seq in self.acknowledged


class Checker:
    """Tells the world what is wrong."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.heard = {edp: Heard() for edp in EDPS}
        self._bytes: dict[str, bytes] = {}
        self._made_up: dict[ClientId, set[bytes]] = {edp: set() for edp in EDPS}  # events not of the service's for it
        self._yeses: dict[str, tuple[ClientId, ConsentId]] = {}  # by the names of the calls that they answer
        self._noes: set[tuple[ClientId, bytes]] = set()  # to which tokens, by their digests
        self._atp_took: set[str] = set()
        self._changes: set[tuple[ClientId, str, int, bool]] = set()
        self._alone_since: dict[ClientId, float] = {}  # first fallback since the last current yes

    # Pushes.

    def pushes(self, pusher: str, epoch: int, client_id: ClientId, content: bytes) -> None:
        """An attempt begins."""
        if epoch != self._world.side.epoch:
            self._wrong(pusher, "P4: pushes under a lease that has passed on", f"epoch {epoch}, to {client_id}")
        jti = _claims(content)["jti"]
        if self._bytes.setdefault(jti, content) != content:
            self._wrong(pusher, "P4: other bytes under the same jti", jti)

    def atp_takes(self, client_id: ClientId, content: bytes) -> None:
        assert client_id == ATP
        self._atp_took.add(_claims(content)["jti"])

    def takes(self, client_id: ClientId, content: bytes) -> None:
        """A guard has answered 202."""
        claims = _claims(content)
        if content in self._made_up[client_id]:
            self._wrong(client_id, "P4: takes an event that is not the service's for it", claims["jti"])
        self.acknowledges(client_id, [claims["jti"]], "202")
        last_seq = claims.get("ccs_last_seq")
        if last_seq is not None and claims["iat"] > self._world.wall() - 170:
            heard = self.heard[client_id]
            heard.announced = max(heard.announced, last_seq)
            heard.look(self._world.side.told[client_id], self._world.now())

    def nobody_takes(self, client_id: ClientId, content: bytes) -> None:
        """An event that is forged, or meant for another, is on its way to a guard, by push or by poll."""
        self._made_up[client_id].add(content)

    def acknowledges(self, client_id: ClientId, jtis: Iterable[str], how: str) -> None:
        """A guard says that it has these."""
        machine = self._world.guards[client_id]
        by_jti = {one.jti: one for one in self._world.side.told[client_id]} if jtis else {}
        for jti in jtis:
            if jti.startswith(FORGED):
                self._wrong(client_id, "P4: takes an event that is not the service's for it", f"{how} {jti}")
            if not machine.has_stored(jti):
                self._wrong(client_id, "P4: acknowledged before it was stored", f"{how} {jti}")
            told = by_jti.get(jti)
            if told is not None:
                self._hear(client_id, told)
        self.heard[client_id].look(self._world.side.told[client_id], self._world.now())

    def listed(self, client_id: ClientId, after: int, to: int) -> None:
        """A listing has told a guard everything after one position, up to another."""
        heard, told = self.heard[client_id], self._world.side.told[client_id]
        if after <= heard.whole_to(told):
            heard.listed_to = max(heard.listed_to, to)
        heard.look(told, self._world.now())

    def _hear(self, client_id: ClientId, told: Told) -> None:
        heard, now, fact = self.heard[client_id], self._world.now(), told.fact
        if told.seq in heard.acknowledged:
            return
        heard.acknowledged[told.seq] = now
        if isinstance(fact, PartyFact):
            heard.parties.append((now, fact.version, fact.suspended))
        elif fact.state in ENDED:
            heard.ends.setdefault(fact.consent_id, now)
        elif fact.change is Change.AMENDED:
            record = next(
                one.consent
                for one in self._world.ledger.consents[fact.consent_id]
                if one.consent.consent_version == fact.consent_version
            )
            heard.cuts.setdefault(fact.consent_id, []).append((now, record.data_to or 0))

    # Memory.

    def memory_changed(
        self, client_id: ClientId, consent_id: str, before: KeptConsent | None, after: KeptConsent | None
    ) -> None:
        """A word was told to a guard's memory."""
        if after is None or after == before:
            return
        if before is not None and after.version < before.version:
            self._wrong(client_id, "P4: a version goes back", f"{consent_id} {before.version} to {after.version}")
        if before is not None and before.ended and not after.ended:
            self._wrong(client_id, "P4: an ended consent comes back", consent_id)
        if not any(_says(one.fact, consent_id, after) for one in self._world.side.told[client_id]):
            self._wrong(client_id, "P4: what the ledger never said", f"{consent_id} {after.version} {after.ended}")
        change = (client_id, consent_id, after.version, after.ended)
        if change in self._changes:
            self._wrong(client_id, "P4: a repeat has an effect", f"{consent_id} {after.version}")
        self._changes.add(change)

    def party_changed(self, client_id: ClientId, party: str, version: int, *, suspended: bool) -> None:
        """A guard's memory is told of an ATP."""
        if not any(
            isinstance(one.fact, PartyFact) and (one.fact.version, one.fact.suspended) == (version, suspended)
            for one in self._world.side.told[client_id]
        ):
            self._wrong(client_id, "P4: what the ledger never said", f"{party} {version} {suspended}")

    def refuses(self, client_id: ClientId, digest: bytes) -> None:
        """A guard's memory is told that a token was refused."""
        if (client_id, digest) not in self._noes:
            self._wrong(client_id, "P6: believes an answer that was not given to it", "a no")

    # Verdicts.

    def said_no(self, client_id: ClientId, consent_id: ConsentId) -> None:
        """A node says so; the guard may hear it."""
        self._noes.add((client_id, digest_of(consent_id)))

    def said_yes(self, client_id: ClientId, consent_id: ConsentId, call: bytes, *, is_current: bool) -> None:
        """A node says that a consent is active, in answer to a call; the guard may hear it."""
        self._yeses[call.decode()] = client_id, consent_id
        if is_current:
            self.said_current(client_id)

    def said_current(self, client_id: ClientId) -> None:
        """A node says that it knows all that is true now."""
        self._alone_since.pop(client_id, None)

    def judged(self, client_id: ClientId, consent_id: ConsentId, share: Share, verdict: Verdict, began: float) -> None:
        """A guard's verdict."""
        world, now = self._world, self._world.now()
        alone = not verdict.allowed or verdict.reason is Reason.LAST_KNOWN
        if alone and verdict.reason in (Reason.LAST_KNOWN, Reason.OUTAGE_TOO_LONG, Reason.DEGRADED, Reason.ONE_OFF):
            self._alone_since.setdefault(client_id, now)
        if not verdict.allowed:
            return
        if verdict.reason is Reason.CONSENTED and self._yeses.pop(verdict.evidence_id, None) != (client_id, consent_id):
            self._wrong(client_id, "P6: believes an answer that was not given to it", f"a yes to {consent_id[-4:]}")
        heard = self.heard[client_id]
        since = max(heard.ends.get(consent_id, float("inf")), 0.0)
        if max(since, world.guards[client_id].booted_at) < began:
            self._wrong(client_id, "P6: allowed after an end that was heard of", f"{consent_id[-4:]} {verdict.reason}")
        expires_at = world.ledger.now(consent_id).expires_at
        if world.wall() - (0 if verdict.reason is Reason.LAST_KNOWN else WAY) >= expires_at:
            self._wrong(client_id, "P6: allowed beyond the consent's period", consent_id[-4:])
        if verdict.reason is Reason.LAST_KNOWN:
            self._fallen_back(client_id, consent_id, share, verdict, began)

    def _fallen_back(
        self, client_id: ClientId, consent_id: ConsentId, share: Share, verdict: Verdict, began: float
    ) -> None:
        world, heard, who = self._world, self.heard[client_id], consent_id[-4:]
        if not world.guards[client_id].evidence.shows(verdict.evidence_id, consent_id):
            self._wrong(client_id, "P6: by fallback without evidence", who)
        if world.ledger.now(consent_id).access_mode.name == "ONE_OFF":
            self._wrong(client_id, "P6: a one-off by fallback", who)
        alone = self._alone_since.get(client_id)
        if alone is not None and world.now() - alone > world.cap:
            self._wrong(client_id, "P6: beyond the cap of the outage", f"{who} after {world.now() - alone:.0f} s")
        as_of = 0 if verdict.as_of is None else verdict.as_of - NOW
        if world.now() - as_of > world.node_cap + 1:
            self._wrong(client_id, "P6: beyond the node's last-known-until", who)
        if any(at < began and share.data_to > until for at, until in heard.cuts.get(consent_id, ())):
            self._wrong(client_id, "P6: beyond a cut that was heard of", who)
        missing = [since for seq, since in heard.missing.items() if not self._has(client_id, seq)]
        if any(since < began and as_of <= int(since) for since in missing):
            since = max(since for since in missing if as_of <= int(since))
            detail = f"{who} as of {as_of}, missing since {since:.1f}: {sorted(heard.missing)}"
            self._wrong(client_id, "P6: by fallback although events are known to be missing", detail)
        parties = [party for party in heard.parties if party[0] < began]
        newest = max((version for _, version, _ in heard.parties), default=0)
        is_stopped = bool(parties) and max(parties, key=_version)[2] and max(heard.parties, key=_version)[2]
        if is_stopped and not self._knows_newer_party(client_id, newest):
            self._wrong(client_id, "P6: by fallback for an ATP that was heard to be suspended", who)

    def _has(self, client_id: ClientId, seq: int) -> bool:
        """Whether a guard has stored an event that it has not acknowledged yet: a poll's acks come with the next."""
        told = next((one for one in self._world.side.told[client_id] if one.seq == seq), None)
        return told is not None and self._world.guards[client_id].has_stored(told.jti)

    def _knows_newer_party(self, client_id: ClientId, version: int) -> bool:
        """Whether a guard has stored a newer word about the ATP, likewise."""
        return any(
            isinstance(one.fact, PartyFact)
            and one.fact.version > version
            and (one.seq <= self.heard[client_id].listed_to or self._has(client_id, one.seq))
            for one in self._world.side.told[client_id]
        )

    # The end.

    def unhealed(self) -> list[str]:
        """What is not as the ledger has it; empty: everything has arrived everywhere."""
        found = []
        world = self._world
        for client_id, machine in world.guards.items():
            memory = machine.memory
            for fact in {_subject(one.fact): one.fact for one in world.side.told[client_id]}.values():
                if isinstance(fact, PartyFact):
                    if memory.is_suspended(fact.client_id) != fact.suspended:
                        found.append(f"{client_id}: {fact.client_id} is not {fact.suspended}")
                    continue
                kept = memory.consent(fact.consent_id)
                if kept is None or (kept.version, kept.ended) != (fact.consent_version, fact.state in ENDED):
                    found.append(f"{client_id}: {fact.consent_id[-4:]} {kept and kept.version}, {fact.consent_version}")
            if memory.missing_since() is not None or machine.events is None:
                found.append(f"{client_id}: events are still missing")
        return found

    def unpushed(self) -> list[str]:
        """Deliveries of the ATP that it has not got, and those called done without it."""
        side = self._world.side
        rows = [row for row in side.rows.values() if row.delivery.client_id == ATP and row.delivery.seq]
        for row in rows:
            if row.fate is Fate.DONE and row.delivery.jti not in self._atp_took:
                self._wrong("pusher", "P4: called done, and never taken", f"delivery {row.delivery.number}")
        return [row.delivery.jti for row in rows if row.delivery.jti not in self._atp_took]

    def _wrong(self, who: str, promise: str, detail: str) -> None:
        self._world.wrong(who, promise, detail)


def _version(party: tuple[float, int, bool]) -> int:
    return party[1]


def _claims(content: bytes) -> dict[str, Any]:
    payload = decode_part(content.split(b".")[1])
    assert payload is not None
    claims: dict[str, Any] = json.loads(payload)
    return claims


def _says(fact: ConsentFact | PartyFact, consent_id: str, kept: KeptConsent) -> bool:
    return isinstance(fact, ConsentFact) and (fact.consent_id, fact.consent_version, fact.state in ENDED) == (
        consent_id,
        kept.version,
        kept.ended,
    )


def _subject(fact: ConsentFact | PartyFact) -> str:
    return fact.consent_id if isinstance(fact, ConsentFact) else fact.client_id
