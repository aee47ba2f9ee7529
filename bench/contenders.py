"""The servers that are compared, each a process of its own on the server's core, and what each is asked.

Every one is a context manager that yields a `Contender`; when it ends, its processes have ended.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from bench.accounting import cpu_seconds, starting_on
from bench.generator import Question
from bench.population import Population

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "rivals"  # what npm installs; outside git
WITHIN = 30.0  # seconds to start
ACTIVE = b'"active":true'


class Absent(Exception):
    """The contender cannot run here; the text is one sentence on what to install."""


class Failed(Exception):
    """The contender did not start; the text is what it said."""


class Contender(msgspec.Struct, frozen=True):
    """A running server and what to ask it. pid: of the process whose family does the work."""

    pid: int
    question: Question

    def cpu(self) -> float:
        """CPU seconds used so far."""
        return cpu_seconds(self.pid)


def introspection(path: str, token: bytes, *lines: bytes) -> tuple[bytes, bytes]:
    """One request before and after the value of X-Request-ID. lines: further header lines."""
    body = urlencode({"token": token}).encode()
    head = [b"POST %b HTTP/1.1" % path.encode(), b"Host: localhost", b"Accept: application/json", *lines]
    return b"\r\n".join([*head, b"X-Request-ID: "]), (
        b"\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def introspections(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """As an EDP asks our node."""
    return [introspection("/introspect", token) for token in tokens]


@contextlib.contextmanager
def started(command: Sequence[str], cores: set[int], log: Path, **more: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of its own group, stopped politely, then not. more: environment."""
    with log.open("wb") as written, starting_on(cores):
        process = subprocess.Popen(
            command, cwd=log.parent, stdout=written, stderr=subprocess.STDOUT, process_group=0,
            env={**os.environ, **more},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(WITHIN)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(path: Path, process: "subprocess.Popen[bytes]", log: Path, needle: str = "{") -> str:
    """What a file says, once it says something complete."""
    until = time.monotonic() + WITHIN
    while time.monotonic() < until:
        if path.exists() and needle in (text := path.read_text()):
            return text
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise Failed(log.read_text()[-2000:] or "it said nothing")


def wait_listening(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until somebody accepts on the port."""
    until = time.monotonic() + WITHIN
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.02)
    raise Failed(log.read_text()[-2000:] or "it does not listen")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@contextlib.contextmanager
def node(
    population: Population, tokens: Sequence[bytes], cores: set[int], *, tree: Path = ROOT, name: str = "ours",
    workers: int = 1,
) -> Iterator[Contender]:  # fmt: skip
    """A whole node (supervisor, feeder, workers) of the engine in `tree`, on the population. Mutual TLS."""
    directory = population.directory / name
    directory.mkdir()
    for file in ("authority.pem", "server.pem", "server.key", "population"):
        shutil.copy(population.directory / file, directory / file)
    (directory / "modules").mkdir()
    shutil.copy(ROOT / "bench/standing_feeder.py", directory / "modules")
    command = [sys.executable, "-P", str(ROOT / "bench/stand.py"), str(directory), str(tree), f"--workers={workers}"]
    path = f"{tree}{os.pathsep}{directory / 'modules'}"
    log = directory / "log"
    with started(command, cores, log, PYTHONPATH=path) as process:
        described = wait_for(directory / "run/node.json", process, log, '"ports"')
        port = json.loads(described)["ports"]["introspection"]
        wait_ready(json.loads(described)["ports"]["status"], process, log)
        question = Question(port, introspections(tokens), ACTIVE, edp_files(population))
        yield Contender(process.pid, question)


def wait_ready(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until every child of the node runs, by its own page of status."""
    import urllib.request

    until = time.monotonic() + WITHIN
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/statusz") as page:
            if all(child["life"] == "running" for child in json.load(page)["children"]):
                return
        time.sleep(0.05)
    raise Failed(log.read_text()[-2000:] or "its children do not run")


def edp_files(population: Population) -> tuple[Path, Path, Path]:
    """Authority, certificate and key of the caller."""
    directory = population.directory
    return directory / "authority.pem", directory / "edp-1.pem", directory / "edp-1.key"


@contextlib.contextmanager
def oidc_provider(directory: Path, tokens: int, cores: set[int]) -> Iterator[Contender]:
    """node-oidc-provider, plain HTTP, opaque access tokens, a confidential client. Raises Absent, Failed."""
    here = install_oidc()
    log = directory / "oidc.log"
    script = here / "server.mjs"
    with started([str(shutil.which("node")), str(script), str(tokens)], cores, log, NODE_ENV="production") as process:
        said = wait_for(log, process, log, '"tokens":')
        about = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
        basic = b"Authorization: Basic " + b64encode(f"edp-1:{about['secret']}".encode())
        requests = [introspection("/token/introspection", one.encode(), basic) for one in about["tokens"]]
        yield Contender(process.pid, Question(about["port"], requests, ACTIVE))


def install_oidc() -> Path:
    """The pinned versions, from the machine's registry, once. Raises Absent, Failed."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise Absent("node-oidc-provider is left out: install Node.js 20 or newer with npm (Debian: nodejs, npm).")
    here = CACHE / "oidc"
    shutil.copytree(ROOT / "bench/rivals/oidc", here, dirs_exist_ok=True)
    if (here / "node_modules/oidc-provider").is_dir() and _same(here):
        return here
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Absent(f"node-oidc-provider is left out: npm could not install it ({done.stderr.strip()[-200:]}).")
    shutil.copy(here / "package-lock.json", here / "installed")
    return here


def _same(here: Path) -> bool:
    installed = here / "installed"
    return installed.exists() and installed.read_bytes() == (here / "package-lock.json").read_bytes()


@contextlib.contextmanager
def quart(population: Population, tokens: Sequence[bytes], cores: set[int], replica: Path) -> Iterator[Contender]:
    """The same answers from Quart-Trio on Hypercorn, plain HTTP. replica: of a node that runs."""
    port, log = free_port(), population.directory / "quart.log"
    command = [sys.executable, "-m", "bench.rivals.quart_app", str(population.directory), str(replica), str(port)]
    with started(command, cores, log, PYTHONPATH=str(ROOT)) as process:
        wait_listening(port, process, log)
        yield Contender(process.pid, Question(port, introspections(tokens), ACTIVE))
