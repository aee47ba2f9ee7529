"""Pushing an event as the transmitter does it: one request of RFC 8935 on a connection, and its answer."""

import anyio.abc
import h11

EVENT = {"Content-Type": "application/secevent+jwt", "Accept": "application/json"}
Answer = tuple[int, dict[str, str], bytes]


async def exchange(
    stream: anyio.abc.ByteStream, body: bytes, method: str, headers: dict[str, str], target: str = "/events"
) -> Answer:
    client = h11.Connection(h11.CLIENT)
    fields = {"Host": "edp", "Content-Length": str(len(body)), **headers}
    request = h11.Request(method=method, target=target, headers=list(fields.items()))
    sent = (
        (client.send(request) or b"") + (client.send(h11.Data(body)) or b"") + (client.send(h11.EndOfMessage()) or b"")
    )
    await stream.send(sent)
    status, got, content = 0, dict[str, str](), b""
    while True:
        event = client.next_event()
        if event is h11.NEED_DATA:
            client.receive_data(await stream.receive())
        elif isinstance(event, h11.Response):
            status, got = event.status_code, {n.decode(): v.decode() for n, v in event.headers}
        elif isinstance(event, h11.Data):
            content += bytes(event.data)
        else:
            return status, got, content
