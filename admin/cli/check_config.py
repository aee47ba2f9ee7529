"""`ccs check-config FILE`: decode a settings file and look for the files that it names."""

import os
from pathlib import Path
from typing import Any

import msgspec

from admin.config import AdminConfig, load_admin_config
from engine.config import BadConfig, NodeConfig, load_node_config

OUTPUT_FIELDS = {"directory", "runtime_directory"}  # made by the service itself


def check_config(file: Path) -> None:
    """Say whether FILE would be taken by `ccs node` or `ccs admin`.

    Exit code 0: it would be. 2: it would not, and one sentence says why.

    Parameters
    ----------
    file
        A TOML file; the one with a `[ledger]` table is the admin application's, the other a node's.
    """
    config: AdminConfig | NodeConfig
    config = load_admin_config(file) if "[ledger]" in _text(file) else load_node_config(file)
    missing = [path for path in named_files(config) if not os.access(path, os.R_OK)]
    if missing:
        raise BadConfig(f"{file}: cannot read {', '.join(str(path) for path in missing)}")
    print(f"{file}: good, for `ccs {'admin' if isinstance(config, AdminConfig) else 'node'}`")


def named_files(config: Any) -> list[Path]:  # noqa: ANN401 - walks any settings struct
    """Every file that a settings struct names and that must exist before the service starts."""
    if isinstance(config, Path):
        return [config]
    if isinstance(config, tuple):
        return [path for item in config for path in named_files(item)]
    if not isinstance(config, msgspec.Struct):
        return []
    fields = [name for name in config.__struct_fields__ if name not in OUTPUT_FIELDS]
    return [path for name in fields for path in named_files(getattr(config, name))]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise BadConfig(f"{file}: {error.strerror}") from error
