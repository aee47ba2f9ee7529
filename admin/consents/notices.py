"""What consumers are to be told of what an ATP did to their consents, read from the ledger in its order.

Nothing is sent from here and nothing is kept: the ledger's event is the notice, so that none can be lost or doubled.
Whoever sends letters and e-mails reads on behind the position that it has dealt with. A person appears as a pseudonym
only; who that is, and where to write to, the sender has to find out elsewhere.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from admin.callers import Callers
from admin.consents.service import Consents
from admin.edge import answer
from admin.ledger.events import ConsentRenewed, ConsentRevoked, Initiator, event_of
from admin.ledger.store import StoredEvent
from admin.openapi import operation
from admin.writing import Place, place
from engine.clock import format_utc
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import Role

PAGE: Final = 1_000  # events looked through for one answer: some milliseconds of decoding


class NoticesQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """after: what the answer before gave as `next`; 0 = from the beginning."""

    after: Annotated[int, Meta(ge=0)] = 0


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an ATP did to a consent. person_id: the pseudonym whose consent it is. reason: of an end."""

    position: Place
    what: Literal["renewed", "ended"]
    consent_id: str
    person_id: str
    client_id: str
    at: str
    consent_expires_at: str
    evidence: str = ""
    reason: str = ""
    effective_from: str = ""


class NoticesView(msgspec.Struct, frozen=True):
    """Notices in the ledger's order. next: what to send as `after`. more: there is something behind it already."""

    notices: tuple[Notice, ...]
    next: int
    more: bool


def add_notice_views(views: Blueprint, consents: Consents, callers: Callers) -> None:
    """Hang the call on the consents' blueprint."""

    @views.get("/notices")
    @operation(answers={200: NoticesView}, query=NoticesQuery, problems=(400,))
    async def notices() -> Response:
        """List what consumers are to be told of what ATPs did to their consents.

        Operators only. Send `next` as `after` for what came since; nothing is forgotten by reading.
        """
        (await callers.authenticate(request.scope)).require(Role.OPERATOR)
        after = _after(request.args.getlist("after"))
        events = await consents.events(after, PAGE)
        last = events[-1].position.seq if events else after
        return answer(NoticesView(notices_of(events), last, len(events) == PAGE))


def notices_of(events: Sequence[StoredEvent]) -> tuple[Notice, ...]:
    """The notices among events of the ledger."""
    return tuple(notice for event in events if (notice := _notice_of(event)) is not None)


def _notice_of(stored: StoredEvent) -> Notice | None:
    if not stored.tag.startswith("consent."):  # most others need no decoding
        return None
    event = event_of(stored)
    if not isinstance(event, ConsentRenewed | ConsentRevoked) or event.act.initiator is not Initiator.ATP:
        return None
    return Notice(
        position=place(stored.position),
        what="ended" if isinstance(event, ConsentRevoked) else "renewed",
        consent_id=event.consent_id,
        person_id=stored.person_id or "",
        client_id=event.consent.atp,
        at=format_utc(event.act.at),
        consent_expires_at=format_utc(event.consent.expires_at),
        evidence=event.evidence,
        reason=event.act.reason or "",
        effective_from=format_utc(event.effective_from) if isinstance(event, ConsentRevoked) else "",
    )


def _after(given: list[str]) -> int:
    if not given:
        return 0
    if len(given) > 1 or not given[0].isascii() or not given[0].isdigit() or len(given[0]) > 16:
        raise InvalidFields([Problem("after", "must be one position, a whole number")])
    return int(given[0])
