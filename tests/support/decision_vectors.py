"""Decision vectors: cases in TOML that the pure core, a worker over TLS and the guard must all answer alike.

A case is a world (participants, consents, policy), a token to sign, what is asked, how fresh the node is, and the
answer. Times in the files are offsets from the moment of the question. The pure core is driven at `NOW`; whoever
drives a real worker passes its own `now` to the same methods:

    for case in cases(surface="worker"):
        put case.participants(certificates) and case.consent_records(now, meter_key) into ledger or replica,
        sign case.claims(now, issuer, x5t) with the issuer's key (`genuine` false: break the signature),
        publish case.bound(now, boot, boot_id, …) just before the question (a current one lasts a second),
        POST token plus case.form(now) as case.ask.caller, and compare with case.status and
        case.body(now, iss=…, x5t=…, as_of=…, last_known_until=…), the last two read from the answer.

Windows are whole seconds around `now`: take `now` once for a case, when its records are made.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from engine.clock import BootTime, Seconds, UnixTime, format_utc, parse_utc
from engine.consent.energy_consent import TYPE
from engine.consent.meter_points import meter_digest
from engine.consent.records import (
    AccessMode,
    Certificate,
    ClientId,
    ConsentId,
    ConsentKey,
    ConsentRecord,
    OnSilence,
    ParticipantRecord,
    PolicyRecord,
    Role,
    consent_key,
)
from engine.consent.states import State
from engine.decision.freshness import MAX_SILENCE, Bound, Freshness, FreshnessState
from engine.decision.questions import Ask, ClaimResult, Miss, Records, Share
from engine.tokens.claims import AccessToken, Confirmation, ConsentDetail, VerifiedToken
from engine.tokens.grants import parse_grants

FOLDER: Final = Path(__file__).parents[1] / "vectors" / "decisions"
NOW: Final = parse_utc("2026-11-22T09:30:00Z")
ISSUER: Final = "https://ccs.example"
METER_KEY: Final = bytes(range(32))
X5T: Final = "QXx3Y8TjIKa3R7PLDG0i-TdBspoytIWUuOtMFE_m1yk"
JKT: Final = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
OUTAGE_CAP: Final = 86_400

_UNITS: Final = {"s": 1, "h": 3600, "d": 86_400}
_PLACE: Final = re.compile(r"<(utc )?([^<>]+)>")


def seconds(offset: str) -> int:
    """`-180d` as seconds."""
    return int(offset[:-1]) * _UNITS[offset[-1]]


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A misspelt member in a vector is a fault, not a default."""


class Participant(Base, frozen=True, kw_only=True):
    role: Literal["atp", "edp"]
    suspended: bool = False
    datasets: tuple[str, ...] = ()
    handles_last_known: bool = False


class Consent(Base, frozen=True, kw_only=True):
    consent_id: str
    dataset_id: str
    meter_points: tuple[str, ...]
    edps: tuple[str, ...]
    expires_at: str
    data_from: str
    data_to: str = "open"
    state: str = "active"
    version: int = 1
    atp: str = "atp-1"
    access_mode: str = "enduring"
    granted_at: str = "-30d"
    purpose_code: str | None = None
    found: Literal["here", "unread", "unknown"] = "here"


class AsIssued(Base, frozen=True, kw_only=True):
    """Where a token says something else than the consent as it stands."""

    dataset_id: str | None = None
    access_mode: str | None = None
    consent_expires_at: str | None = None
    data_from: str | None = None
    data_to: str | None = None
    meter_points: tuple[str, ...] | None = None
    purpose_code: str | None = None


class Token(Base, frozen=True, kw_only=True):
    aud: str
    client_id: str
    issued: str
    expires: str
    consents: tuple[str, ...]
    not_before: str | None = None
    binding: Literal["x5t", "jkt"] = "x5t"
    genuine: bool = True
    revoked: bool = False
    as_issued: dict[str, AsIssued] = {}


class ShareSpec(Base, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    dataset_id: str
    meter_point: str
    start: str
    end: str
    purpose_code: str | None = None


class AskSpec(Base, frozen=True, kw_only=True):
    caller: str
    share: ShareSpec | None = None
    share_id: str | None = None


class Node(Base, frozen=True, kw_only=True):
    state: FreshnessState
    as_of: str
    on_silence: Literal["continue", "halt"] = "continue"


class Expected(Base, frozen=True, kw_only=True):
    answer: Literal["active", "inactive", "unavailable", "look_further", "claim_first"]
    json: str | None = None
    reason: str = "token_not_active"
    consents: tuple[str, ...] = ()
    share_id: str | None = None


class Case(Base, frozen=True, kw_only=True):
    """One vector. `surface` "core": only the pure core can show it (a step, or refused earlier on the wire)."""

    name: str
    expect: Expected
    ask: AskSpec
    token: Token
    node: Node
    participants_: dict[str, Participant] = msgspec.field(name="participants")
    consents: dict[str, Consent]
    snippets: dict[str, str]
    claim: ClaimResult = ClaimResult.UNASKED
    surface: Literal["all", "core"] = "all"
    file: str = ""

    @property
    def status(self) -> int:
        """The HTTP status of a plain answer."""
        return {"active": 200, "inactive": 200, "unavailable": 503}[self.expect.answer]

    def participants(
        self, certificates: Mapping[str, tuple[Certificate, ...]] | None = None
    ) -> dict[str, ParticipantRecord]:
        """The participants' records. certificates: of each client that connects."""
        return {
            client_id: ParticipantRecord(
                ClientId(client_id),
                Role[spec.role.upper()],
                spec.suspended,
                (certificates or {}).get(client_id, ()),
                spec.datasets,
                handles_last_known=spec.handles_last_known,
            )
            for client_id, spec in self.participants_.items()
        }

    def policy(self) -> PolicyRecord:
        return PolicyRecord(OnSilence[self.node.on_silence.upper()], Seconds(float(OUTAGE_CAP)))

    def consent_records(self, now: UnixTime, meter_key: bytes) -> dict[ConsentKey, ConsentRecord]:
        """The records that the node has; a consent that is `unread` or `unknown` is nowhere."""
        found = [spec for spec in self.consents.values() if spec.found == "here"]
        return {consent_key(ConsentId(spec.consent_id)): _record(spec, now, meter_key) for spec in found}

    def claims(self, now: UnixTime, issuer: str = ISSUER, x5t: str = X5T) -> AccessToken:
        """The token to sign. `token.genuine` false: what is sent must not verify."""
        spec = self.token
        binding = Confirmation(x5t_s256=x5t) if spec.binding == "x5t" else Confirmation(jkt=JKT)
        details = tuple(_detail(self.consents[name], spec.as_issued.get(name), now) for name in spec.consents)
        return AccessToken(
            issuer,
            ClientId(spec.aud),
            ClientId(spec.client_id),
            "s-1",
            "t-1",
            now + seconds(spec.issued),
            now + seconds(spec.expires),
            binding,
            details,
            None if spec.not_before is None else now + seconds(spec.not_before),
        )

    def verified(self, now: UnixTime, meter_key: bytes) -> VerifiedToken | None:
        """What verification would have made of the token."""
        if not self.token.genuine:
            return None
        claims = self.claims(now)
        return VerifiedToken(claims, "k1", b"d" * 32, b"r" * 16, parse_grants(claims.authorization_details, meter_key))

    def question(self, now: UnixTime) -> Ask:
        share = self.ask.share
        return Ask(
            ClientId(self.ask.caller),
            None
            if share is None
            else Share(
                share.dataset_id,
                share.meter_point,
                UnixTime(now + seconds(share.start)),
                UnixTime(now + seconds(share.end)),
                share.purpose_code,
            ),
            self.ask.share_id,
        )

    def form(self, now: UnixTime) -> dict[str, str]:
        """The form's fields besides `token`."""
        fields = {}
        if (share := self.question(now).share) is not None:
            fields = {
                "ccs_dataset_id": share.dataset_id,
                "ccs_mpxn": share.meter_point,
                "ccs_from": format_utc(share.data_from),
                "ccs_to": format_utc(share.data_to),
            }
            if share.purpose_code is not None:
                fields["ccs_purpose_code"] = share.purpose_code
        if self.ask.share_id is not None:
            fields["ccs_share_id"] = self.ask.share_id
        return fields

    def records(self, now: UnixTime, meter_key: bytes) -> Records:
        """What the core is given."""
        parties = self.participants()
        misses = {"unread": Miss.UNREAD, "unknown": Miss.UNKNOWN}
        named = [self.consents[name] for name in self.token.consents] if self.token.genuine else []
        return Records(
            parties.get(self.ask.caller),
            parties.get(self.token.client_id),
            tuple(misses.get(spec.found) or _record(spec, now, meter_key) for spec in named),
            self.token.revoked,
            self.policy(),
            self.claim,
        )

    def freshness(self, now: UnixTime) -> Freshness:
        as_of = UnixTime(now + seconds(self.node.as_of))
        return Freshness(self.node.state, as_of, UnixTime(as_of + OUTAGE_CAP))

    def bound(self, now: UnixTime, boot: BootTime, boot_id: str, incarnation: str, applied: int) -> Bound:
        """What a feeder would have published to bring the node into this state."""
        age = seconds(self.node.as_of)
        return Bound(incarnation, applied, boot_id, BootTime(boot + age + MAX_SILENCE), UnixTime(now + age))

    def body(
        self,
        now: UnixTime,
        *,
        iss: str = ISSUER,
        x5t: str = X5T,
        as_of: int | None = None,
        last_known_until: int | None = None,
    ) -> bytes:
        """The exact body of a 200."""
        if self.expect.json is None:
            return b'{"active":false}'
        freshness = self.freshness(now)
        bindings = {
            "iss": iss,
            "x5t": x5t,
            "jkt": JKT,
            "type": TYPE,
            "as_of": str(freshness.as_of if as_of is None else as_of),
            "last_known_until": str(freshness.last_known_until if last_known_until is None else last_known_until),
        }
        return _fill(self.expect.json, now, {**self.snippets, **bindings}).replace("\n", "").encode()


def _fill(text: str, now: UnixTime, bindings: Mapping[str, str]) -> str:
    def put(match: re.Match[str]) -> str:
        is_text, name = match.group(1), match.group(2)
        if name in bindings:
            return _fill(bindings[name], now, bindings)
        at = UnixTime(now + seconds(name))
        return format_utc(at) if is_text else str(at)

    return _PLACE.sub(put, text)


def _instant(offset: str, now: UnixTime) -> UnixTime | None:
    return None if offset == "open" else UnixTime(now + seconds(offset))


def _record(spec: Consent, now: UnixTime, meter_key: bytes) -> ConsentRecord:
    key = consent_key(ConsentId(spec.consent_id))
    return ConsentRecord(
        State[spec.state.upper()],
        spec.version,
        ClientId(spec.atp),
        spec.dataset_id,
        AccessMode[spec.access_mode.upper()],
        UnixTime(now + seconds(spec.granted_at)),
        UnixTime(now + seconds(spec.expires_at)),
        UnixTime(now + seconds(spec.data_from)),
        _instant(spec.data_to, now),
        tuple(meter_digest(meter_key, key, point) for point in spec.meter_points),
        tuple(ClientId(edp) for edp in spec.edps),
        spec.purpose_code,
    )


def _detail(spec: Consent, issued: AsIssued | None, now: UnixTime) -> ConsentDetail:
    issued = issued or AsIssued()
    end = _instant(issued.data_to or spec.data_to, now)
    return ConsentDetail(
        TYPE,
        ConsentId(spec.consent_id),
        issued.dataset_id or spec.dataset_id,
        issued.access_mode or spec.access_mode,
        format_utc(UnixTime(now + seconds(issued.consent_expires_at or spec.expires_at))),
        format_utc(UnixTime(now + seconds(issued.data_from or spec.data_from))),
        issued.meter_points or spec.meter_points,
        None if end is None else format_utc(end),
        purpose_code=issued.purpose_code or spec.purpose_code,
    )


def _laid_over(base: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in case.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = _laid_over(base[name], value) if both else value
    return merged


def cases(surface: Literal["core", "worker"] = "core") -> tuple[Case, ...]:
    """All vectors, or those that a whole worker can show."""
    world = tomllib.loads((FOLDER / "world.toml").read_text())
    found = [
        msgspec.convert(_laid_over(world, case) | {"file": path.stem}, Case)
        for path in sorted(FOLDER.glob("*.toml"))
        if path.stem != "world"
        for case in tomllib.loads(path.read_text())["case"]
    ]
    return tuple(case for case in found if surface == "core" or case.surface == "all")
