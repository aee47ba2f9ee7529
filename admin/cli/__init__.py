"""The `ccs` command: one file per command, each imported only when it is called.

So `ccs guard` and `ccs node` run where the admin application's libraries are not installed. Commands parse,
load settings, call one function and turn faults into exit codes; the codes are the same everywhere.
"""

import sys
from typing import Final

from cyclopts import App

from engine.errors import Fault, Kind

EXIT_CODES: Final = {
    Kind.INVALID: 2,
    Kind.UNAVAILABLE: 3,
    Kind.NOT_FOUND: 4,
    Kind.CONFLICT: 5,
    Kind.UNAUTHENTICATED: 6,
    Kind.FORBIDDEN: 6,
    Kind.BROKEN: 7,
}
OTHER_FAULT: Final = 1

app = App(
    name="ccs",
    help="""Consumer Consent Solution: the trust service for UK energy data.

    Start with `ccs up`: it runs everything on this machine, seeded, and prints the addresses.

    Exit codes: 0 done · 1 failed · 2 wrong input or configuration · 3 a service does not answer ·
    4 not found · 5 conflict · 6 not allowed · 7 stored data fails its check.
    """,
)
_COMMANDS: Final = {
    "up": ("admin.cli.up:up", "Run everything on this machine, embedded and seeded, until Ctrl-C."),
    "status": ("admin.cli.status:status", "Show the running sandbox: processes, freshness, positions."),
    "node": ("admin.cli.node:node", "Run one engine node of a real installation."),
    "admin": ("admin.cli.admin_service:admin", "Run the admin application of a real installation."),
    "check-config": ("admin.cli.check_config:check_config", "Say whether a settings file would be taken."),
    "ledger": ("admin.cli.ledger:app", "Verify, follow and export the ledger."),
    "replica": ("admin.cli.replica:app", "Look into a node's replica."),
    "sandbox": ("admin.cli.sandbox:app", "Mint tokens and revoke consents in a sandbox."),
}
for _name, (_path, _help) in _COMMANDS.items():
    app.command(_path, name=_name, help=_help)


def main() -> None:
    """Entry point of the `ccs` script."""
    try:
        app()
    except Fault as fault:
        print(f"ccs: {fault.text}", file=sys.stderr)
        sys.exit(EXIT_CODES.get(fault.kind, OTHER_FAULT))
    except KeyboardInterrupt:
        sys.exit(130)
