"""A node's answer keys on disk: `0001.pem`, `0002.pem` …, and beside each, once the issuer publishes it, its word.

The feeder makes the first key and registers the newest; every worker signs with the newest that the issuer has
published for long enough. The acknowledgement is a file too, so that a node which starts while the feed service is
away goes on with the key it had.
"""

import os
import secrets
from pathlib import Path
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.config import BadConfig, read_private
from engine.telemetry import logs
from engine.tokens.answer_keys import AnswerSigner, BadAnswerKey, PemAnswerSigner, new_answer_key

SEEN_AFTER: Final = 600  # seconds for which others may keep the issuer's key set (`Cache-Control` of `jwks_uri`)
_FIRST: Final = "0001.pem"

_log = logs.logger("answers")


class Acknowledged(msgspec.Struct, frozen=True):
    """The issuer publishes the key. since: of the first acknowledgement; at: of the newest; until: its end."""

    kid: str
    issuer: str
    since: UnixTime
    at: UnixTime
    until: UnixTime


class KeptKey(msgspec.Struct, frozen=True):
    """A key file, and what the issuer has said of it."""

    path: Path
    signer: PemAnswerSigner
    acknowledged: Acknowledged | None

    def serves(self, now: UnixTime) -> bool:
        """Whether answers may be signed with it."""
        return self.acknowledged is not None and now < self.acknowledged.until

    def is_seen(self, now: UnixTime) -> bool:
        """Whether even those who keep the issuer's key set have it by now."""
        return self.acknowledged is not None and now >= self.acknowledged.since + SEEN_AFTER


class AnswerKeyFiles:
    """issuer: whose acknowledgements count."""

    def __init__(self, directory: Path, issuer: str) -> None:
        self._directory = directory
        self._issuer = issuer

    def make_first(self) -> None:
        """A key where there is none; for one process of the node. Raises BadConfig."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._names():
                _write(self._directory / _FIRST, new_answer_key(), 0o600)
                _log.info("answer_key_made", file=_FIRST)
        except OSError as error:
            raise BadConfig(f"{self._directory}: {error.strerror}") from error

    def read(self) -> tuple[KeptKey, ...]:
        """Newest first. Raises BadConfig: one that others may read, or that is no P-256 key."""
        return tuple(self._read(path) for path in self._names())

    def acknowledge(self, key: KeptKey, now: UnixTime, until: UnixTime) -> None:
        """Remember that the issuer publishes a key. Raises BadConfig."""
        since = now if key.acknowledged is None else key.acknowledged.since
        word = Acknowledged(key.signer.kid, self._issuer, since, now, until)
        try:
            _write(key.path.with_suffix(".json"), msgspec.json.encode(word) + b"\n", 0o644)
        except OSError as error:
            raise BadConfig(f"{self._directory}: {error.strerror}") from error

    def look(self) -> tuple[tuple[str, int], ...]:
        """What is there now, for comparison with what was."""
        try:
            with os.scandir(self._directory) as found:
                return tuple(sorted((entry.name, entry.stat().st_mtime_ns) for entry in found))
        except OSError:
            return ()

    def _names(self) -> list[Path]:
        return sorted((path for path in self._directory.glob("*.pem") if not path.name.startswith(".")), reverse=True)

    def _read(self, path: Path) -> KeptKey:
        try:
            signer = PemAnswerSigner.from_pem(read_private(path))
        except BadAnswerKey as fault:
            raise BadConfig(f"{path}: {fault.text}") from fault
        return KeptKey(path, signer, self._word(path, signer.kid))

    def _word(self, path: Path, kid: str) -> Acknowledged | None:
        try:
            word = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Acknowledged)
        except (OSError, msgspec.MsgspecError):
            return None
        return word if (word.kid, word.issuer) == (kid, self._issuer) else None


class CurrentAnswerKey:
    """A worker's choice among the files; `refresh` now and then."""

    def __init__(self, files: AnswerKeyFiles) -> None:
        self._files = files
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._keys: tuple[KeptKey, ...] = ()

    def refresh(self) -> None:
        """Read the files again if any has changed; faulty ones leave what was read before in use."""
        seen = self._files.look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = self._files.read()
        except BadConfig as fault:
            _log.error("answer_keys_not_read", text=fault.text)

    def signer(self, now: UnixTime) -> AnswerSigner | None:
        """The newest key that everybody can know, else the newest that is published; None: there is none."""
        first: AnswerSigner | None = None
        for key in self._keys:
            if key.serves(now):
                if key.is_seen(now):
                    return key.signer
                first = first or key.signer
        return first


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and on disk."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
