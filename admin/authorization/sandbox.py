"""Consents and tokens by the thousand, in a sandbox: made people, but the real commands, ledger and minting.

Consents go to the ledger in batches of one append each; tokens are signed in the minter's own thread. What is made
streams out as it comes, so that a million tokens need no more memory than a thousand.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import ClassVar, Final, TypeVar

import msgspec
import trio

from admin.authorization.minting import GrantedConsent, Minted, Minter, Order
from admin.authorization.token_records import TokenRecords
from admin.consents.commands import in_good_standing
from admin.consents.forms import Grant, read_grant
from admin.consents.made_people import made_grant
from admin.consents.service import MAX_BATCH, Consents
from admin.ledger.events import Act, ConsentGranted, ParticipantEvent, decode, decode_personal
from admin.ledger.store import Append, Idempotency, Receipt
from engine.clock import UnixTime, format_utc
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import ClientId, ConsentId, Role, Thumbprint

M = TypeVar("M", bound="MintedToken")

JSON_LINES: Final = "application/x-ndjson"
FIRST_LINES: Final = 64  # tokens of the first batch: the caller sees progress, or the fault, within a blink


class MintedToken(msgspec.Struct, frozen=True):
    """One token as the sandbox hands it out."""

    token: str
    consent_id: str
    edp: str
    atp: str
    expires_at: str


class MintedLine(MintedToken, frozen=True):
    """One token as a line of JSON."""

    content_type: ClassVar[str] = JSON_LINES


class Pair(msgspec.Struct, frozen=True):
    """Who gets data from whom."""

    atp: ClientId
    edp: ClientId


class Sandbox:
    """Makes consents and tokens in numbers."""

    def __init__(
        self, consents: Consents, minter: Minter, records: TokenRecords | None, now: Callable[[], UnixTime]
    ) -> None:
        """records: where batch decisions find tokens by their digest; None = nowhere."""
        self._consents = consents
        self._minter = minter
        self._records = records
        self._now = now

    async def grant(self, first: int, pairs: Sequence[Pair], act: Act, key: Idempotency) -> Receipt:
        """Consents of the made people first, first + 1, …: one for each pair, all or none.

        Raises InvalidFields where a pair is not of an ATP and an EDP in good standing.
        """
        if (earlier := await self._consents.replayed(key)) is not None:
            return earlier
        _, _, receipt = await self._grant(first, pairs, act, key)
        return receipt

    async def mint(self, count: int, consents: int, first: int, pair: Pair, act: Act) -> AsyncGenerator[bytes, None]:
        """JSON lines of `count` tokens over `consents` new consents; raises where `grant` does, at the first step."""
        done = 0
        while done < consents:
            batch = min(consents - done, MAX_BATCH if done else FIRST_LINES)
            grants, appends, _ = await self._grant(first + done, [pair] * batch, act, None)
            parties = await self._consents.parties([pair.atp])
            orders = [
                order
                for index, (grant, append) in enumerate(zip(grants, appends, strict=True), done)
                for order in [_order(grant, append, pair, parties[pair.atp])]
                for _ in range(_share(count, consents, index))
            ]
            for start in range(0, len(orders), MAX_BATCH):
                yield await self._lines(orders[start : start + MAX_BATCH])
            done += batch

    async def mint_for(
        self, consent_id: ConsentId, edp: ClientId, act: Act, thumbprint: Thumbprint | None
    ) -> MintedToken:
        """A token of a consent that stands. thumbprint: of the ATP's connection; None = its newest certificate.

        Raises UnknownConsent, CannotMint where the consent has ended or the ATP may have none, and InvalidFields
        where the EDP holds none of its data or is not in good standing.
        """
        event, state = await self._consents.find(consent_id, act)
        atp = event.consent.atp
        parties = await self._consents.parties([atp, edp])
        if edp not in event.consent.edps:
            raise InvalidFields([Problem("edp", "is not a data provider of this consent")])
        if not in_good_standing(parties.get(edp), Role.EDP):
            raise InvalidFields([Problem("edp", "is not a data provider that is registered and in good standing")])
        points = () if state.personal is None else decode_personal(state.personal).meter_points
        consent = GrantedConsent(consent_id, event.consent, points)
        order = Order(parties[atp].participant, edp, (consent,), thumbprint)
        (minted,) = await self._minted([order])
        return _described(MintedToken, minted, order)

    async def _lines(self, orders: list[Order]) -> bytes:
        minted = await self._minted(orders)
        lines = (_described(MintedLine, one, order) for one, order in zip(minted, orders, strict=True))
        return msgspec.json.Encoder().encode_lines(lines)

    async def _minted(self, orders: list[Order]) -> list[Minted]:
        now = self._now()
        minted = await self._minter.mint_many(orders, now)
        if self._records is not None:
            await self._records.keep(minted, now)
        return minted

    async def _grant(
        self, first: int, pairs: Sequence[Pair], act: Act, key: Idempotency | None
    ) -> tuple[list[Grant], list[Append], Receipt]:
        parties = await self._consents.parties(client for pair in pairs for client in (pair.atp, pair.edp))
        datasets = {edp: _dataset(parties, edp) for edp in {pair.edp for pair in pairs}}
        grants = await trio.to_thread.run_sync(_read_all, first, pairs, datasets, act.at)
        appends, receipt = await self._consents.grant_all(grants, parties, act, key)
        return grants, appends, receipt


def _read_all(first: int, pairs: Sequence[Pair], datasets: dict[ClientId, str], now: UnixTime) -> list[Grant]:
    """Through the very reader that a request goes through; 0.1 ms each, hence in a thread."""
    return [
        read_grant(made_grant(number, atp=pair.atp, edp=pair.edp, dataset_id=datasets[pair.edp], now=now), now)
        for number, pair in enumerate(pairs, first)
    ]


def _dataset(parties: dict[ClientId, ParticipantEvent], edp: ClientId) -> str:
    event = parties.get(edp)
    if event is None or event.participant.role is not Role.EDP or not event.participant.datasets:
        raise InvalidFields([Problem("edp", "is not a data provider that has published a data set")])
    return event.participant.datasets[0]


def _order(grant: Grant, append: Append, pair: Pair, atp: ParticipantEvent) -> Order:
    granted = decode(append.body)
    assert isinstance(granted, ConsentGranted)  # noqa: S101 - `commands.grant` makes nothing else
    points = grant.form.authorization_details.meter_points or ()
    consent = GrantedConsent(granted.consent_id, granted.consent, points)
    return Order(atp.participant, pair.edp, (consent,))


def _described(form: type[M], minted: Minted, order: Order) -> M:
    return form(
        token=minted.token.decode(),
        consent_id=order.consents[0].consent_id,
        edp=order.edp,
        atp=order.atp.client_id,
        expires_at=format_utc(UnixTime(minted.claims.exp)),
    )


def _share(count: int, consents: int, index: int) -> int:
    """How many of `count` tokens the consent of this index gets: as even as can be."""
    return count // consents + (index < count % consents)
