"""What stands in for a node behind a link: it shakes hands as the node does, and gives every question one status.

So does a load balancer that has no node left (503), or one that finds its client too eager (429).
"""

import ssl

import trio

from tests.chaos.links import LOOPBACK
from tests.chaos.plan import What

STATUSES = {What.UNAVAILABLE: (503, b"Service Unavailable", b"1"), What.TOO_MANY: (429, b"Too Many Requests", b"1")}
BODY = b"another answers here"  # by which it is told from a node, whose 429 would be wrong in a run like this one
LARGEST = 1 << 22


async def serve(
    what: What, port: int, context: ssl.SSLContext, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer whoever connects, until cancelled. context: of the nodes' own listener."""

    async def one(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await _answer_all(secured, what)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            pass
        finally:
            await trio.aclose_forcefully(secured)

    listeners = await trio.open_tcp_listeners(port, host=LOOPBACK)
    task_status.started()
    await trio.serve_listeners(one, listeners)


def answer_to(head: bytes, what: What) -> bytes:
    """The whole answer to a request: its name is repeated, as a node would."""
    status, reason, wait = STATUSES[what]
    named = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-request-id:")]
    length = b"Content-Length: %d" % len(BODY)
    lines = [b"HTTP/1.1 %d %s" % (status, reason), b"Retry-After: " + wait, length, *named[:1]]
    return b"\r\n".join(lines) + b"\r\n\r\n" + BODY


async def _answer_all(stream: trio.abc.Stream, what: What) -> None:
    waiting = b""
    while True:
        head, end, rest = waiting.partition(b"\r\n\r\n")
        length = _length(head) if end else 0
        if end and len(rest) >= length:
            await stream.send_all(answer_to(head, what))
            waiting = rest[length:]
            continue
        data = await stream.receive_some()
        if not data or len(waiting) > LARGEST:
            return
        waiting += data


def _length(head: bytes) -> int:
    lines = (line.lower() for line in head.split(b"\r\n"))
    return next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
