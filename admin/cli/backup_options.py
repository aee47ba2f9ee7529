"""What the commands about backups have in common: the key, the settings, the record."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from admin.cli.running import settings_file
from engine.config import BadConfig

if TYPE_CHECKING:
    from admin.config import Ledger
    from admin.ledger.backup.filling import Keys
    from admin.ledger.backup.place import Place
    from admin.ledger.backup.record import Record
    from admin.ledger.backup.sealed import BackupKey

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sealing:
    """How backups are opened.

    Attributes
    ----------
    key
        The backup key, 32 raw bytes; `ledger.backup-key-file` of the settings where none is named. Keep a copy of it
        apart from the backups.
    record
        The directory, apart from the backups, where it is written down what was shipped and rehearsed;
        `ledger.backup-record` of the settings where none is named.
    config
        Settings of the admin application.
    state
        Folder of `ccs up`; its settings are taken where no others are named.
    """

    key: Path | None = None
    record: Path | None = None
    config: Path | None = None
    state: Path = Path("var")

    def settings(self) -> "Ledger":
        """What the settings say of the ledger. Raises BadConfig, NoSandbox."""
        from admin.config import load_admin_config

        return load_admin_config(self.config or settings_file(self.state, "admin.toml")).ledger

    def open(self, root: Path, *, with_record: bool = True) -> "tuple[Place, Record | None]":
        """The place, and its record where there is to be one. Settings are read where they are named or needed.

        Raises BadConfig, NoSandbox.
        """
        from admin.ledger.backup.place import Place
        from admin.ledger.backup.record import Record
        from admin.ledger.backup.sealed import BackupKey

        settings = self.settings() if self.config or not self.key else None
        key = self._key(root, settings, BackupKey.from_file)
        directory = self.record or (settings.backup_record if settings else None)
        if directory is None or not with_record:
            return Place(root, key), None
        _refuse_among(directory, root, "the record")
        return Place(root, key), Record(directory, key)

    def _key(self, root: Path, settings: "Ledger | None", read: "Callable[[Path], BackupKey]") -> "BackupKey":
        file = self.key or (settings.backup_key_file if settings else None)
        if file is None:
            raise BadConfig("name the backup key: --key FILE, or ledger.backup-key-file in the settings")
        _refuse_among(file, root, "the key")
        return read(file)


SEALING = Sealing()


def keys_of(settings: "Ledger", *, without_journal: bool = False) -> "Keys":
    """What a restored ledger must fit. Raises BadConfig."""
    from admin.ledger.backup.filling import Keys
    from admin.ledger.checkpoints import CheckpointKey
    from admin.ledger.personal import Safe

    return Keys(
        settings.kind,
        Safe.from_file(settings.person_key_file),
        CheckpointKey.from_file(settings.checkpoint_key_file),
        None if without_journal else settings.erasure_journal,
    )


def _refuse_among(file: Path, root: Path, what: str) -> None:
    if file.resolve().is_relative_to(root.resolve()):
        raise BadConfig(f"{file}: {what} lies among the backups; keep it apart from them")
