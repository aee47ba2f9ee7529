"""The listings by which a receiver heals: for ATPs and EDPs, the consents that they take part in."""

from quart import Blueprint, Response, request

from admin.callers import Callers
from admin.consents.listing import (
    ChangesQuery,
    ChangesView,
    Listings,
    SnapshotQuery,
    SnapshotView,
    read_changes_query,
    read_snapshot_query,
)
from admin.edge import answer
from admin.openapi import operation
from engine.consent.records import Role


def listing_views(listings: Listings, callers: Callers) -> Blueprint:
    """Blueprint with the listings."""
    views = Blueprint("listings", __name__)

    @views.get("/consents/changes")
    @operation(answers={200: ChangesView}, query=ChangesQuery, problems=(400, 410))
    async def changes() -> Response:
        """List what has changed of your consents after a position.

        For ATPs and EDPs. 410 where the position is too old or of another incarnation: take the snapshot.
        """
        caller = (await callers.authenticate(request.scope)).require(Role.ATP, Role.EDP)
        asked = read_changes_query(request.args.to_dict(flat=False))
        return answer(await listings.changes(caller.client_id, asked))

    @views.get("/consents/snapshot")
    @operation(answers={200: SnapshotView}, query=SnapshotQuery, problems=(400, 410))
    async def snapshot() -> Response:
        """List all your consents as they stand, page by page.

        For ATPs and EDPs. Send `cursor` until an answer has none; pages may be empty. Then go on with the changes after
        `as_of_seq`. Ended consents are listed too.
        """
        caller = (await callers.authenticate(request.scope)).require(Role.ATP, Role.EDP)
        asked = read_snapshot_query(request.args.getlist("cursor"))
        return answer(await listings.snapshot(caller.participant, asked))

    return views
