"""Reports of ends that this node kept over a change of incarnation, for the ledger's side to look into.

A ledger restored with loss has forgotten them; the nodes that heard of them have not. They are told as pseudonymous
ids, in pieces, each under its own idempotency key, again and again until they are taken.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from engine.backoff import Backoff
from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.feed.entries import EntryKind
from engine.replica.service import FeedService
from engine.telemetry.logs import logger

PIECE: Final = 500  # ends a report: some 20 kB
RETRY: Final = Backoff(first=Seconds(1.0), limit=Seconds(60.0))

_log = logger("feeder")

End = tuple[EntryKind, bytes]


class KeptEnds(msgspec.Struct, frozen=True, tag="replica.ends_kept", tag_field="type"):
    """What was ended under one incarnation and is not under the next one."""

    node_id: str
    ended_under: str
    missing_under: str
    consents: tuple[str, ...]  # consent ids
    tokens: tuple[str, ...]  # revocation keys, hexadecimal


def reports_of(kept: Sequence[End], *, node_id: str, ended_under: str, missing_under: str) -> list[KeptEnds]:
    """The reports, in pieces."""
    return [
        KeptEnds(
            node_id,
            ended_under,
            missing_under,
            tuple(str(uuid.UUID(bytes=key)) for kind, key in piece if kind is EntryKind.CONSENT),
            tuple(key.hex() for kind, key in piece if kind is EntryKind.TOKEN_REVOCATION),
        )
        for piece in (kept[start : start + PIECE] for start in range(0, len(kept), PIECE))
    ]


async def report(
    service: FeedService, reports: Sequence[KeptEnds], *, draw: Callable[[], str], jitter: Callable[[], float]
) -> None:
    """Send each until it is taken; one that is refused for good is told in the log and left."""
    for item in reports:
        idempotency_key, body, failures = draw(), msgspec.json.encode([item]), 0
        while True:
            try:
                await service.report(idempotency_key, body)
                break
            except Fault as fault:
                if fault.kind is not Kind.UNAVAILABLE:
                    _log.error("kept_ends_refused", text=fault.text, consents=item.consents)
                    break
                failures += 1
            await trio.sleep(RETRY.delay(failures, jitter()))
