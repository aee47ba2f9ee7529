"""The node that is measured: one real worker on a core of its own, over mutual TLS, with tokens of every kind.

The supervisor and worker are the real ones, on a replica made here and kept current (`bench.standing_feeder`). The
worker has the first core, whoever loads it takes the second.
"""

import contextlib
import os
import resource
import signal
import ssl
import sys
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from admin.authorization.minting import GrantedConsent, Minter, Order
from admin.pki.keys import FileTokenSigner, new_token_key
from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import Certificate, ClientId, ParticipantRecord, Role, Thumbprint
from engine.consent.states import State
from engine.decision.freshness import Bound
from engine.feed.entries import Entry, EntryKind
from engine.telemetry.host import SystemClock, boot_id
from engine.tokens.grants import consent_key
from engine.tokens.keys import JwkSet, PublishedKeys
from tests.support.mutual_tls import Authority, thumbprint_of
from tests.support.nodes import Running
from tests.support.pki import ISSUER, granted_consent
from tests.support.replicas import INCARNATION, entry, open_store, participant_entry
from tests.support.replicas import bound as unproven

DAY: Final = 86_400
LIFETIME: Final = 3_600  # seconds of a token; longer than any bench
PAUSE: Final = 0.2  # seconds: connections that ended are noticed, worker threads end
DESCRIPTORS: Final = 20_000  # enough for every bench, in the node and in the generator
EDP, OTHER_EDP, ATP = ClientId("edp-1"), ClientId("edp-2"), ClientId("atp-1")
KINDS: Final = ("good", "expired", "revoked", "foreign", "unknown")
# X-Request-ID goes between the two parts, as far down as common clients put it.
BEFORE_ID: Final = (
    b"POST /introspect HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nUser-Agent: bench\r\nX-Request-ID: "
)
AFTER_ID: Final = b"\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%b"


def ending_of(token: bytes) -> bytes:
    """What follows the request's id: the rest of one introspection as an EDP sends it."""
    body = urllib.parse.urlencode({"token": token}).encode()
    return AFTER_ID % (len(body), body)


class Door(msgspec.Struct, frozen=True):
    """Where to knock and with what: port on loopback, PEM files. authority None: plain HTTP.

    server: pid of the process behind it, whose use of its core is told with each load; 0 = one's own.
    others: pids of further processes behind it, told together with it.
    """

    port: int
    authority: str | None = None
    certificate: str = ""
    key: str = ""
    server: int = 0
    others: tuple[int, ...] = ()

    def context(self) -> ssl.SSLContext | None:
        """A client's side of mutual TLS; sessions are never resumed."""
        if self.authority is None:
            return None
        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Usage(msgspec.Struct, frozen=True):
    """Of one process so far, in seconds. waited: ready to run while others had its core."""

    cpu: float
    waited: float

    def since(self, earlier: "Usage") -> "Usage":
        """What was used in between."""
        return Usage(self.cpu - earlier.cpu, self.waited - earlier.waited)

    def __add__(self, other: "Usage") -> "Usage":
        """Of two processes together."""
        return Usage(self.cpu + other.cpu, self.waited + other.waited)


def usage_of(pid: int) -> Usage:
    """pid 0: this one. waited: of the main thread, 0 where the kernel does not tell. Raises ProcessLookupError."""
    pid = pid or os.getpid()
    try:
        cpu = time.clock_gettime((~pid << 3) | 2)  # its CPU clock, as clock_getcpuclockid(3) makes it
    except OSError as error:
        raise ProcessLookupError(f"process {pid}, which was to be measured, has ended") from error
    try:
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        waited = 0.0
    return Usage(cpu, waited)


def usage_of_all(door: Door) -> Usage:
    """Of whatever is behind it."""
    return sum(map(usage_of, door.others), usage_of(door.server))


class Target(msgspec.Struct, frozen=True):
    """A running node. endings: what follows the id of a request, for each kind of token."""

    door: Door
    endings: dict[str, list[bytes]]

    def usage(self) -> Usage:
        """Of its workers."""
        return usage_of_all(self.door)


def take_second_core() -> None:
    """Keep this process off the worker's core, as far as there is another."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[1 % len(cores)]})


def note(text: str) -> None:
    """Progress, for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def allow_descriptors(wanted: int = DESCRIPTORS) -> int:
    """Raise the soft limit of open files, which children inherit; returns what is allowed, and says if that is less."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        note(f"only {allowed} open files are allowed here (hard limit of RLIMIT_NOFILE), {wanted} were wanted")
    return allowed


@contextlib.contextmanager
def running(counts: Mapping[str, int], *, workers: int = 1) -> Iterator[Target]:
    """A node on a fresh replica. counts: tokens to mint of each kind (`KINDS`). SIGTERM ends it as an exit would.

    A single worker has the first core to itself; several may run anywhere.
    """
    allow_descriptors()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    with TemporaryDirectory(prefix="ccs-bench-") as name:
        directory = Path(name)
        note(f"minting {sum(counts.values())} tokens")
        authority, endings = populate(directory, counts)
        node = Running(
            directory, authority, {}, modules=("engine.node.worker", "bench.standing_feeder"), workers=workers
        )
        try:
            node.wait_ready(workers)
            about = node.described()
            pids = tuple(about["pids"]["workers"])
            if workers == 1:
                os.sched_setaffinity(pids[0], {min(os.sched_getaffinity(0))})
            authority_file, certificate, key = map(str, (authority.file, directory / "edp.pem", directory / "edp.key"))
            yield Target(
                Door(about["ports"]["introspection"], authority_file, certificate, key, pids[0], pids[1:]), endings
            )
        finally:
            node.stop()


def populate(directory: Path, counts: Mapping[str, int]) -> tuple[Authority, dict[str, list[bytes]]]:
    """A replica and certificates in a directory; tokens by kind, each of a consent of its own, in random order."""
    authority, now = Authority(directory), UnixTime(int(time.time()))
    edp = _participant(authority, "edp", EDP, Role.EDP, now)
    atp = _participant(authority, "atp", ATP, Role.ATP, now)
    signer = FileTokenSigner(new_token_key("PS256"))
    minter = Minter(ISSUER, signer, Seconds(LIFETIME))
    entries, endings = [participant_entry(0, edp), participant_entry(0, atp)], {}
    for kind, count in counts.items():
        granted = [_granted(kind, now) for _ in range(count)]
        entries += [held for each in granted if (held := _held(kind, each)) is not None]
        minted_at = UnixTime(now - (2 * LIFETIME if kind == "expired" else 60))
        orders = [Order(atp, each.record.edps[0], (each,)) for each in granted]
        endings[kind] = [ending_of(minter.mint(order, minted_at).token) for order in orders]
    _fill(directory / "replica", entries, msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((signer.public,)))))
    return authority, endings


def _participant(authority: Authority, name: str, client: ClientId, role: Role, now: UnixTime) -> ParticipantRecord:
    """With allowances that no bench reaches."""
    certificate = Certificate(Thumbprint(thumbprint_of(authority.issue(name)[0])), UnixTime(now + DAY))
    return ParticipantRecord(
        client_id=client,
        role=role,
        suspended=False,
        certificates=(certificate,),
        handles_last_known=True,
        max_connections=DESCRIPTORS,
        max_requests_per_second=10_000_000,
    )


def _granted(kind: str, now: UnixTime) -> GrantedConsent:
    edp = OTHER_EDP if kind == "foreign" else EDP
    granted_at, expires_at = UnixTime(now - DAY), UnixTime(now + DAY)
    return granted_consent(str(uuid.uuid4()), edps=(edp,), granted_at=granted_at, expires_at=expires_at)


def _held(kind: str, granted: GrantedConsent) -> Entry | None:
    """What the replica knows of the consent."""
    if kind == "unknown":
        return None
    record = granted.record
    if kind == "revoked":
        record = msgspec.structs.replace(record, state=State.REVOKED, consent_version=2)
    return entry(0, EntryKind.CONSENT, consent_key(granted.consent_id), record)


def _fill(directory: Path, entries: list[Entry], published: bytes) -> None:
    clock, store = SystemClock(), open_store(directory, boot_id=boot_id())
    generation = store.begin_generation()
    generation.seal(unproven(0))
    store.adopt(generation)
    store.put_keys(published)
    numbered = [msgspec.structs.replace(item, seq=seq) for seq, item in enumerate(entries, 1)]
    asked = BootTime(clock.boot() - 8.0), UnixTime(clock.now() - 10)  # longer ago than silence is borne
    store.apply(numbered, Bound(INCARNATION, len(entries), boot_id(), *asked))
    store.close()
