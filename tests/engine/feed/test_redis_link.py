"""The link alone, over a stream in memory and a server that the test plays: what no real server would do."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from engine.clock import Seconds
from engine.feed.redis_faults import RedisLoading, RedisReadOnly, RedisRefused, RedisUnavailable
from engine.feed.redis_link import MAX_WAITING, Credentials, Endpoint, Link, dial, greet

SILENCE = Seconds(5.0)


class Played:
    """A link and the other end of its stream."""

    def __init__(self) -> None:
        ours, self.server = memory_stream_pair()
        self.pushes: list[object] = []
        self.link = Link(ours, silence=SILENCE, on_push=self.pushes.append)

    async def answer(self, *pieces: bytes) -> None:
        """Wait for the command, then send."""
        await self.server.receive_some()
        for piece in pieces:
            await self.server.send_all(piece)


@pytest.fixture
async def played(nursery: trio.Nursery) -> AsyncIterator[Played]:
    pair = Played()
    await nursery.start(pair.link.run)
    yield pair
    pair.link.drop()


async def test_a_reply_cut_anywhere_is_one_reply(played: Played, nursery: trio.Nursery) -> None:
    reply = b"$5\r\nab\r\nc\r\n"
    nursery.start_soon(played.answer, *(reply[at : at + 1] for at in range(len(reply))))
    assert await played.link.execute("GET", "x") == b"ab\r\nc"


async def test_commands_of_one_moment_leave_in_one_write(played: Played, nursery: trio.Nursery) -> None:
    for number in range(3):
        nursery.start_soon(played.link.execute, "ECHO", number)
    await trio.testing.wait_all_tasks_blocked()
    assert (await played.server.receive_some()).count(b"ECHO") == 3
    await played.server.send_all(b":0\r\n:1\r\n:2\r\n")


async def test_pushes_are_no_replies(played: Played, nursery: trio.Nursery) -> None:
    nursery.start_soon(played.answer, b">2\r\n+message\r\n+hint\r\n", b"+PONG\r\n")
    assert await played.link.execute("PING") == b"PONG"
    assert played.pushes == [[b"message", b"hint"]]


async def test_a_late_reply_of_a_cancelled_call_is_dropped(played: Played, nursery: trio.Nursery) -> None:
    with trio.move_on_after(0.01):
        await played.link.execute("GET", "cancelled")
    nursery.start_soon(played.answer, b"+late\r\n", b"+ours\r\n")
    assert await played.link.execute("GET", "kept") == b"ours"


async def test_a_reply_that_nobody_asked_for_loses_the_link(played: Played) -> None:
    await played.server.send_all(b"+surprise\r\n")
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(RedisUnavailable):
        await played.link.execute("PING")
    assert played.link.lost_because is not None
    assert "nobody asked" in played.link.lost_because.text


async def test_what_is_not_resp_loses_the_link(played: Played, nursery: trio.Nursery) -> None:
    nursery.start_soon(played.answer, b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(RedisUnavailable):
        await played.link.execute("PING")
    assert not played.link.up


async def test_an_end_fails_everybody_who_waits(played: Played) -> None:
    faults: list[RedisUnavailable] = []

    async def ask() -> None:
        with pytest.raises(RedisUnavailable) as lost:
            await played.link.execute("PING")
        faults.append(lost.value)

    async with trio.open_nursery() as asking:
        for _ in range(5):
            asking.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await played.server.aclose()
    assert len({id(fault) for fault in faults}) == 5, "each caller gets a fault of its own"
    assert played.link.waiting == 0


async def test_callers_beyond_the_bound_are_refused_at_once(played: Played, nursery: trio.Nursery) -> None:
    nursery.start_soon(_ignore_loss, played.link, MAX_WAITING)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(RedisUnavailable, match="too many"):
        await played.link.execute("PING")
    assert played.link.up


async def _ignore_loss(link: Link, commands: int) -> None:
    with pytest.raises(RedisUnavailable):
        await link.execute_many([("PING",)] * commands)


async def test_silence_counts_from_the_question_not_from_the_last_word(
    played: Played,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - installed by being asked for
) -> None:
    """Idle for 4.9 of 5 seconds, then a command answered after 1: the link stays."""
    await trio.sleep(4.9)

    async def answer_slowly() -> None:
        await played.server.receive_some()
        await trio.sleep(1.0)
        await played.server.send_all(b"+PONG\r\n")

    nursery.start_soon(answer_slowly)
    assert await played.link.execute("PING") == b"PONG"


async def test_a_server_that_never_answers_is_given_up_within_two_silences(
    played: Played,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - installed by being asked for
) -> None:
    started = trio.current_time()
    with pytest.raises(RedisUnavailable):
        await played.link.execute("PING")
    assert SILENCE <= trio.current_time() - started <= 2 * SILENCE


@pytest.mark.parametrize(
    ("replies", "fault"),
    [
        (b"-WRONGPASS no\r\n-NOAUTH no\r\n-NOAUTH no\r\n", RedisRefused),
        (b"%0\r\n-LOADING busy\r\n*1\r\n+master\r\n", RedisLoading),
        (b"%0\r\n+PONG\r\n*1\r\n$5\r\nslave\r\n", RedisReadOnly),
        (b"%0\r\n+PONG\r\n-LOADING busy\r\n", RedisLoading),
    ],
)
async def test_a_server_that_will_not_do_is_told_at_the_greeting(
    played: Played, nursery: trio.Nursery, replies: bytes, fault: type[Exception]
) -> None:
    nursery.start_soon(played.answer, replies)
    with pytest.raises(fault):
        await greet(played.link, Credentials(password="secret"), "test")


async def test_the_greeting_signs_in_before_anything_else(played: Played, nursery: trio.Nursery) -> None:
    nursery.start_soon(_ignore_failure, played)
    sent = await played.server.receive_some()
    assert sent.startswith(
        b"*7\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n$6\r\nsecret\r\n$7\r\nSETNAME\r\n"
    )


async def _ignore_failure(played: Played) -> None:
    with pytest.raises(RedisUnavailable):
        await greet(played.link, Credentials(password="secret"), "test")


def test_credentials_do_not_show_their_password() -> None:
    assert "secret" not in repr(Credentials("projector", "secret"))


async def test_tls_without_a_context_is_refused() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(RedisUnavailable, match="context"):
        await dial(Endpoint(host="127.0.0.1", port=port, tls=True), None)
    for listener in listeners:
        await listener.aclose()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
def test_no_bytes_of_a_server_end_in_anything_but_replies_and_faults(pieces: list[bytes]) -> None:
    async def play() -> None:
        async with trio.open_nursery() as nursery:
            played = Played()
            await nursery.start(played.link.run)
            nursery.start_soon(_send_and_end, played, pieces)
            try:
                await played.link.execute_many([("PING",)] * 3)
            except RedisUnavailable:
                assert played.link.lost_because is not None
            played.link.drop()

    async def _send_and_end(played: Played, pieces: list[bytes]) -> None:
        try:
            for piece in pieces:
                await played.server.send_all(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        await played.server.aclose()

    trio.run(play)
