"""Load in a closed loop from a process of its own: some connections, one request in flight on each.

Every answer is read whole and looked at: an answer that is not the expected one ends the run. Each request carries an
`X-Request-ID` of its own. Warming, and the connections' handshakes, come before the time and the CPU are taken.
"""

import itertools
import multiprocessing
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import msgspec

from bench.rounds import Measured, WrongAnswer

TIMEOUT = 120.0  # seconds; an answer that takes longer is a defect of the bench
WARM_UP = 0.3  # seconds of asking before a round counts


class Question(msgspec.Struct, frozen=True):
    """What is asked of one contender. port: on loopback.

    requests: each in two parts, before and after the value of X-Request-ID.
    expected: stands in every good answer, once for each item.
    tls: authority, certificate and key files of the caller; None = plain HTTP. items: decisions in one request.
    once: each request is sent once, in order, without a warm-up, and the round ends with the last.
    """

    port: int
    requests: list[tuple[bytes, bytes]]
    expected: bytes
    tls: tuple[Path, Path, Path] | None = None
    items: int = 1
    once: bool = False


class Length(msgspec.Struct, frozen=True):
    """How long one round is: whatever comes first. connections: asking at once."""

    seconds: float
    requests: int = 10**12
    connections: int = 32


class Asker:
    """One connection."""

    def __init__(self, question: Question, context: ssl.SSLContext | None) -> None:
        plain = socket.create_connection(("127.0.0.1", question.port), timeout=TIMEOUT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        self.expected = question.expected
        self.items = question.items

    def collect(self) -> None:
        """Read one whole answer."""
        answer = self.socket.recv(65_536)
        while (left := missing(answer)) > 0:
            more = self.socket.recv(max(left, 65_536))
            if not more:
                break
            answer += more
        if not answer:
            raise WrongAnswer("it hung up")
        if answer.count(self.expected) < self.items:
            raise WrongAnswer(f"{self.expected!r} is not in {answer[:1000]!r}")


def missing(answer: bytes) -> int:
    """Bytes that the answer still lacks; 1 while its head is incomplete. Content-Length only: nobody here chunks."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return 1 if answer else 0
    _, found, rest = answer[:end].lower().partition(b"content-length:")
    if not found:
        raise WrongAnswer(f"no length in {answer[:500]!r}")
    return end + 4 + int(rest.partition(b"\r\n")[0]) - len(answer)


def ask(askers: list[Asker], following: Iterator[bytes], seconds: float, most: int) -> tuple[int, float]:
    """Keep every connection busy; returns how many answers came and how long they took together."""
    poll, by_descriptor, began = select.epoll(), {one.socket.fileno(): one for one in askers}, time.perf_counter()
    sent = done = 0
    for asker, request in zip(askers, itertools.islice(following, most), strict=False):
        asker.socket.sendall(request)
        poll.register(asker.socket, select.EPOLLIN)
        sent += 1
    until = began + seconds
    while done < sent:
        going_on = time.perf_counter() < until
        for descriptor, _ in poll.poll():
            asker = by_descriptor[descriptor]
            asker.collect()
            done += 1
            if going_on and sent < most:
                asker.socket.sendall(next(following))
                sent += 1
    poll.close()
    return done, time.perf_counter() - began


def generate(question: Question, length: Length, cores: set[int], pipe: Pipe) -> None:
    """Connect, warm, wait for the word, ask, report. The main of the generator's process."""
    os.sched_setaffinity(0, cores)
    context = None
    if question.tls:
        context = ssl.create_default_context(cafile=str(question.tls[0]))
        context.load_cert_chain(*question.tls[1:])
    try:
        askers = [Asker(question, context) for _ in range(length.connections)]
        numbers = itertools.count()
        requests = question.requests if question.once else itertools.cycle(question.requests)
        following = (before + b"%032d" % next(numbers) + after for before, after in requests)
        most = len(question.requests) if question.once else length.requests
        if not question.once:
            ask(askers, following, 10 * TIMEOUT, len(question.requests))
            ask(askers, following, min(WARM_UP, length.seconds), most)
        pipe.send(None)
        pipe.recv()
        pipe.send(ask(askers, following, TIMEOUT if question.once else length.seconds, most))
    except (WrongAnswer, OSError) as error:
        pipe.send(WrongAnswer(str(error)))


def measure(question: Question, length: Length, cores: set[int], cpu: Callable[[], float]) -> Measured:
    """One round. cores: the generator's. cpu: seconds that the server has used so far. Raises WrongAnswer."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=generate, args=(question, length, cores, theirs))
    process.start()
    theirs.close()
    try:
        _hear(ours)
        before = cpu()
        ours.send(None)
        done, elapsed = _hear(ours)
        used = cpu() - before
    finally:
        ours.close()
        process.join(TIMEOUT)
    return Measured(done * question.items, elapsed, used)


def _hear(pipe: Pipe) -> tuple[int, float]:
    if not pipe.poll(TIMEOUT):
        raise WrongAnswer("the generator did not report in time")
    heard: tuple[int, float] | WrongAnswer = pipe.recv()
    if isinstance(heard, WrongAnswer):
        raise heard
    return heard
