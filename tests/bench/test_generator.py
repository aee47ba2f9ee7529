"""The generator reads whole answers, looks at each, and gives each request an id of its own."""

import socket
from collections.abc import Callable, Iterator

import pytest

from bench.accounting import core
from bench.cases import BATCH, batches
from bench.contenders import introspection
from bench.generator import Asker, Length, Question, ask, measure, missing
from bench.rounds import WrongAnswer
from tests.support.scripted_server import Script, Scripted

GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"active":true}'
REQUEST = (b"POST / HTTP/1.1\r\nHost: x\r\nX-Request-ID: ", b"\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Scripted]]:
    servers: list[Scripted] = []

    def one(script: Script) -> Scripted:
        servers.append(Scripted(script))
        return servers[-1]

    yield one
    for server in servers:
        server.close()


@pytest.mark.parametrize("cut", range(1, len(GOOD)))
def test_an_answer_lacks_bytes_until_it_is_whole(cut: int) -> None:
    assert missing(GOOD[:cut]) > 0
    assert missing(GOOD) == 0


def test_an_answer_without_a_length_is_refused() -> None:
    with pytest.raises(WrongAnswer, match="no length"):
        missing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def asker_on(answer: bytes, **fields: object) -> tuple[Asker, socket.socket]:
    """An asker whose peer has sent these bytes."""
    listening = socket.create_server(("127.0.0.1", 0))
    with listening:
        question = Question(listening.getsockname()[1], [REQUEST], b'"active":true', **fields)  # type: ignore[arg-type] # fields are Question's own
        asker = Asker(question, None)
        peer, _ = listening.accept()
    peer.sendall(answer)
    return asker, peer


def test_an_answer_is_checked() -> None:
    asker, peer = asker_on(GOOD.replace(b"true", b"fals"))
    with asker.socket, peer, pytest.raises(WrongAnswer, match="fals"):
        asker.collect()


def test_a_batch_must_hold_every_yes() -> None:
    asker, peer = asker_on(GOOD, items=2)
    with asker.socket, peer, pytest.raises(WrongAnswer):
        asker.collect()


def test_a_hang_up_is_a_wrong_answer() -> None:
    asker, peer = asker_on(b"")
    peer.close()
    with asker.socket, pytest.raises(WrongAnswer, match="hung up"):
        asker.collect()


def test_asking_ends_with_the_count_and_collects_what_is_owed(serve: Callable[[Script], Scripted]) -> None:
    server = serve(lambda _number, _request: GOOD)
    question = Question(server.port, [REQUEST], b'"active":true')
    askers = [Asker(question, None) for _ in range(3)]
    done, elapsed = ask(askers, iter([b"%b1%b" % REQUEST] * 50), 60.0, 20)
    for asker in askers:
        asker.socket.close()
    assert done == 20
    assert len(server.requests) == 20
    assert elapsed > 0


def test_a_round_warms_asks_and_counts_with_an_id_for_each_request(serve: Callable[[Script], Scripted]) -> None:
    server = serve(lambda _number, _request: GOOD)
    account = iter([1.0, 3.0])
    length = Length(seconds=60.0, requests=10, connections=2)
    measured = measure(Question(server.port, [REQUEST], b'"active":true'), length, core(1), lambda: next(account))
    assert (measured.items, measured.cpu) == (10, 2.0)
    ids = [request.partition(b"X-Request-ID: ")[2].partition(b"\r\n")[0] for request in server.requests]
    assert len(ids) == len(set(ids)) == 21  # one of each question, ten of the warm-up, ten that count


def test_questions_to_be_asked_once_are_asked_once(serve: Callable[[Script], Scripted]) -> None:
    server = serve(lambda _number, _request: GOOD)
    question = Question(server.port, [REQUEST] * 7, b'"active":true', once=True)
    assert measure(question, Length(60.0, 3, 2), core(1), float).items == 7
    assert len(server.requests) == 7


def test_a_wrong_answer_ends_the_round(serve: Callable[[Script], Scripted]) -> None:
    server = serve(lambda _number, _request: b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(WrongAnswer, match="503"):
        measure(Question(server.port, [REQUEST], b"true"), Length(1.0, 1, 1), core(1), float)


def test_tokens_are_asked_about_in_batches_by_digest() -> None:
    asked = batches([introspection("/introspect", b"t%d" % number) for number in range(2 * BATCH)])
    assert len(asked) == 2
    for _, after in asked:
        assert after.count(b'"type":"access_token"') == BATCH
