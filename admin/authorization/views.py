"""The issuer's web face: metadata and keys for everybody, and in a sandbox consents and tokens by the thousand."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from admin.authorization.metadata import CACHE_SECONDS
from admin.authorization.sandbox import JSON_LINES, MintedLine, MintedToken, Pair, Sandbox
from admin.callers import Callers
from admin.consents.parties import Parties, consent_id_of
from admin.consents.service import MAX_BATCH
from admin.edge import answer, json_text, read_json
from admin.ledger.events import Act, Initiator, Route
from admin.openapi import operation
from admin.sandbox_only import LedgerKind, require_sandbox
from admin.writing import Place, idempotency, place
from engine.clock import UnixTime
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import ClientId, Role

ClientText = Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]
MAX_TOKENS: Final = 1_000_000


class TokensForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many tokens, over how many new consents (one a token where nothing is said), for whom."""

    count: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    edp: ClientText
    atp: ClientText
    consents: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None


class PeopleForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A consent of each of the made people first … first + count - 1, dealt out over the ATPs and EDPs."""

    first: Annotated[int, Meta(ge=0, le=2**40)]
    count: Annotated[int, Meta(ge=1, le=MAX_BATCH)]
    edps: Annotated[tuple[ClientText, ...], Meta(min_length=1, max_length=10)]
    atps: Annotated[tuple[ClientText, ...], Meta(min_length=1, max_length=10)]


class TokenForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which of the consent's EDPs the token is for."""

    edp: ClientText


class PeopleView(msgspec.Struct, frozen=True):
    """The consents stand; the last one at `position`."""

    consents: int
    position: Place


def public_views(
    metadata: dict[str, Any], jwks: Callable[[], Awaitable[bytes]], event_jwks: Callable[[], Awaitable[bytes]]
) -> Blueprint:
    """Blueprint for the public listener. jwks, event_jwks: the key sets as they stand now; raise nothing."""
    views = Blueprint("issuer", __name__)
    document = msgspec.json.encode(metadata)

    @views.get("/.well-known/oauth-authorization-server")
    @views.get("/.well-known/openid-configuration")
    async def show_metadata() -> Response:
        return _cached(document, "application/json")

    @views.get("/jwks")
    async def show_keys() -> Response:
        return _cached(await jwks(), "application/jwk-set+json")

    @views.get("/event-jwks")
    async def show_event_keys() -> Response:
        response = Response(await event_jwks(), content_type="application/jwk-set+json")
        response.headers["Cache-Control"] = "no-cache"  # whoever meets a new key asks once, and must see it
        return response

    return views


def sandbox_views(sandbox: Sandbox, callers: Callers, kind: LedgerKind, now: Callable[[], UnixTime]) -> Blueprint:
    """Blueprint for the machine listener; every call is refused on a production ledger."""
    views = Blueprint("sandbox", __name__)
    parties = Parties(callers, now)

    async def operator() -> Act:
        caller = (await callers.authenticate(request.scope)).require(Role.OPERATOR)
        require_sandbox(kind)
        return Act(Initiator.OPERATOR, caller.client_id, Route.API, now())

    @views.post("/sandbox/consents")
    @operation(answers={201: PeopleView}, body=PeopleForm, problems=(409,), keyed=True)
    async def grant() -> Response:
        """Grant consents of made people.

        Sandbox and operators only. All of them or none; the same numbers make the same people.
        """
        act = await operator()
        offered = request.headers.get("Idempotency-Key")
        key = idempotency(ClientId(act.actor), offered, request.method, request.path, await json_text())
        form = await read_json(PeopleForm)
        receipt = await sandbox.grant(form.first, _pairs(form), act, key)
        return answer(PeopleView(form.count, place(receipt.position)), HTTPStatus.CREATED)

    @views.post("/sandbox/tokens")
    @operation(answers={200: MintedLine}, body=TokensForm, problems=(409,))
    async def mint() -> Response:
        """Mint tokens, each line of the answer one of them.

        Sandbox and operators only. New consents of made people are granted for them.
        """
        act = await operator()
        form = await read_json(TokensForm)
        consents = form.consents or form.count
        if consents > form.count:
            raise InvalidFields([Problem("consents", "must not be more than count")])
        pair = Pair(ClientId(form.atp), ClientId(form.edp))
        lines = sandbox.mint(form.count, consents, secrets.randbelow(2**40), pair, act)
        first = await anext(lines)  # what is wrong with the request shows here, while a status can still say so
        response = Response(_chained(first, lines), content_type=JSON_LINES)
        response.timeout = None  # a million tokens take minutes
        return response

    @views.post("/consents/<consent_id>/tokens")
    @operation(answers={200: MintedToken}, body=TokenForm, problems=(404, 409))
    async def mint_for(consent_id: str) -> Response:
        """Mint a token of a consent that stands.

        Sandbox only: elsewhere the token endpoint issues them. An ATP gets tokens of its own consents, bound to the
        certificate it calls with; an operator gets them for the ATP, bound to the ATP's newest certificate.
        """
        caller = await parties.calling()
        require_sandbox(kind)
        edp = ClientId((await read_json(TokenForm)).edp)
        bound_to = caller.thumbprint if caller.role is Role.ATP else None
        return answer(await sandbox.mint_for(consent_id_of(consent_id), edp, parties.act_of(caller), bound_to))

    return views


def _pairs(form: PeopleForm) -> list[Pair]:
    return [
        Pair(ClientId(form.atps[index % len(form.atps)]), ClientId(form.edps[index % len(form.edps)]))
        for index in range(form.count)
    ]


async def _chained(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):  # whoever stops reading before the end stops the minting, here and now
        yield first
        async for lines in rest:
            yield lines


def _cached(body: bytes, content_type: str) -> Response:
    response = Response(body, content_type=content_type)
    response.headers["Cache-Control"] = f"public, max-age={CACHE_SECONDS}"
    return response
