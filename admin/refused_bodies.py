"""A refused caller is read on for a while, so that it sees its refusal.

Most clients send a whole body before they read the answer. Were the connection closed on them meanwhile, all they
would see is a broken connection; so a refusal waits until the body is through, within bounds of bytes and time.
What is read is thrown away.
"""

from typing import Final

import trio
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)

from engine.clock import Seconds

PATIENCE: Final = Seconds(2.0)
MOST: Final = 8 * 1_048_576  # bytes read of one body, those that the application read included


class _Request:
    """The receiving side of one request, which the application and a refusal may read by turns."""

    def __init__(self, receive: ASGIReceiveCallable) -> None:
        self._receive = receive
        self._turn = trio.Lock()  # fair: whoever waits here learns the end before it is waited for again
        self._size = 0
        self._is_through = False

    async def receive(self) -> ASGIReceiveEvent:
        """The next event, as ASGI has it."""
        async with self._turn:
            return await self._next()

    async def read_on(self) -> None:
        """Return once the body is through, or the caller is gone, or has sent or taken too much."""
        with trio.move_on_after(PATIENCE):
            while not self._is_through and self._size <= MOST:
                async with self._turn:
                    if not self._is_through:
                        await self._next()

    async def _next(self) -> ASGIReceiveEvent:
        event = await self._receive()
        if event["type"] == "http.request":
            self._size += len(event["body"])
            self._is_through = not event["more_body"]
        else:
            self._is_through = True
        return event


def reading_refused_bodies(app: ASGIFramework) -> ASGIFramework:
    """The same ASGI application, whose answers of 400 and above wait for the request's end."""

    async def wrapped(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        request = _Request(receive)

        async def send_later(event: ASGISendEvent) -> None:
            if event["type"] == "http.response.start" and event["status"] >= 400:
                await request.read_on()
            await send(event)

        await app(scope, request.receive, send_later)

    return wrapped
