"""A coverage-guided run: `make fuzz SECONDS=…`, or `python -m tests.fuzz FILE…` to try single inputs again.

libFuzzer, by way of atheris, mutates the corpus and keeps what reaches new branches of the code under test. Inputs
that it adds lie in `finds/added`, one that breaks a rule lies in `finds`; neither is part of the tree until somebody
moves it to the corpus.
"""

import argparse
import contextlib
import io
import sys
from pathlib import Path
from typing import NoReturn

import atheris

with (
    contextlib.redirect_stderr(io.StringIO()),
    atheris.instrument_imports(include=["engine.listener", "engine.tokens", "engine.consent.reading"]),
):
    from tests.fuzz.inputs import CORPUS, FINDS, check

LONGEST = 4096
REPRODUCE = "Try it again: .venv/bin/python -m tests.fuzz <the file that is named below>"


def main(argv: list[str]) -> None:
    """Does not return: libFuzzer ends the process, with 77 where an input broke a rule."""
    if any(word.startswith("-merge_inner") for word in argv):  # libFuzzer starts itself again for a merge
        _fuzz(argv)
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    asked.add_argument("--seconds", type=int, default=60)
    asked.add_argument("--finds", type=Path, default=FINDS, help="where to write what was found")
    asked.add_argument("--merge", action="store_true", help="add to the corpus what reaches more")
    asked.add_argument("files", nargs="*", type=Path)
    options = asked.parse_args(argv)
    for file in options.files:
        check(file.read_bytes())
    if options.files:
        print("No rule is broken.")  # noqa: T201 - a command
        return
    _fuzz(_flags(options.seconds, options.finds, merge=options.merge))


def _fuzz(flags: list[str]) -> NoReturn:
    atheris.Setup([f"{sys.executable} -m tests.fuzz", *flags], _check)
    atheris.Fuzz()
    raise AssertionError


def _flags(seconds: int, finds: Path, *, merge: bool) -> list[str]:
    added = finds / "added"
    added.mkdir(parents=True, exist_ok=True)
    if merge:
        return ["-merge=1", f"-max_len={LONGEST}", str(CORPUS), str(added)]
    dictionary = f"-dict={Path(__file__).parent / 'words.dict'}"
    limits = [f"-max_len={LONGEST}", f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048"]
    return [*limits, "-print_final_stats=1", dictionary, f"-artifact_prefix={finds}/", str(added), str(CORPUS)]


def _check(data: bytes) -> None:
    try:
        check(data)
    except BaseException:
        print(REPRODUCE, file=sys.stderr)  # noqa: T201 - what to do next, before the traceback
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
