"""The `ccs` command: one file per command, each imported only when it is called.

So `ccs guard` and `ccs node` run where the admin application's libraries are not installed. Commands parse,
load settings, call one function and turn faults into exit codes; the codes are the same everywhere.
"""

import os
import sys
from collections.abc import Collection
from typing import Final

from cyclopts import App, Parameter

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
INTERRUPTED: Final = 130  # 128 and the number of SIGINT, as shells count
READER_GONE: Final = 141  # 128 and the number of SIGPIPE

_HELP: Final = """Consumer Consent Solution: the trust service for UK energy data.

Start with `ccs up`: it runs everything on this machine, seeded, and prints the addresses.

Exit codes: 0 done · 1 failed · 2 wrong input or configuration · 3 a service does not answer ·
4 not found · 5 conflict · 6 not allowed · 7 stored data fails its check.
"""
_COMMANDS: Final = {
    "up": ("admin.cli.up:up", "Run everything on this machine, embedded and seeded, until Ctrl-C."),
    "status": ("admin.cli.status:status", "Show the running sandbox: processes, freshness, positions."),
    "node": ("admin.cli.node:node", "Run one engine node of a real installation."),
    "pusher": ("admin.cli.pusher:pusher", "Run one pusher of a real installation."),
    "admin": ("admin.cli.admin_service:admin", "Run the admin application of a real installation."),
    "guard": ("admin.cli.guard:app", "Run an EDP's guard, or look at one that runs."),
    "check-config": ("admin.cli.check_config:check_config", "Say whether a settings file would be taken."),
    "ledger": ("admin.cli.ledger:app", "Begin, verify, follow, export, back up and restore the ledger."),
    "consents": ("admin.cli.consents:app", "End all consents of an ATP that was suspended."),
    "receivers": ("admin.cli.receivers:app", "Show who is told of revocations; pause or enable their streams."),
    "reports": ("admin.cli.reports:app", "Show what participants have reported."),
    "replica": ("admin.cli.replica:app", "Look into a node's replica."),
    "sandbox": ("admin.cli.sandbox:app", "Mint tokens, revoke consents, set up guards in a sandbox."),
}


def command_line(words: Collection[str] = ()) -> App:
    """The command with its subcommands, none of them imported yet.

    words: what was typed. A command named there keeps its own full help, which a line given here would replace.
    """
    made = App(name="ccs", help=_HELP, default_parameter=Parameter(negative=""))
    for name, (path, line) in _COMMANDS.items():
        made.command(path, name=name, help=None if name in words else line)
    return made


app: Final = command_line()


def main() -> None:
    """Entry point of the `ccs` script."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = READER_GONE
    sys.exit(code)


def run(words: list[str]) -> int:
    """Run one command and say its fault on standard error. Returns the exit code; raises BrokenPipeError."""
    try:
        command_line(words)(words)
    except Fault as fault:
        print(f"ccs: {fault.text}", file=sys.stderr)
        return EXIT_CODES.get(fault.kind, OTHER_FAULT)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:  # cyclopts ends so, after every command
        if isinstance(end.__context__, BrokenPipeError):  # rich makes a 1 of it
            raise end.__context__ from None
        return end.code if isinstance(end.code, int) else OTHER_FAULT if end.code else 0
    return 0
