"""Our node of another revision beside that of the work tree: rounds interleaved, medians, spread, ratio.

The revision is checked out into a worktree under `build/`, which is removed afterwards; its node is run by its own
engine, with the dependencies of this `.venv`. Both get the same certificates, consents, tokens and requests. A work
tree with changes is measured as it is, and said to be so.

    make bench-compare BASE=REVISION
    .venv/bin/python -m bench.revisions REVISION [--rounds 5] [--seconds 3] [--quick] [--json]
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.accounting import core
from bench.comparison import GENERATOR, SERVER, TOKENS, round_of
from bench.contenders import ROOT, Failed, node
from bench.generator import Length
from bench.population import Population
from bench.rounds import Figures, WrongAnswer, as_json, figures, interleave, lines

TREE = "work tree"


class NoSuchRevision(Exception):
    """The text is one sentence."""


def git(*arguments: str) -> str:
    """What git says. Raises CalledProcessError."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def resolve(revision: str) -> str:
    """The commit's whole hash. Raises NoSuchRevision."""
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        raise NoSuchRevision(f"{revision!r} names no commit of this repository.") from error


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A worktree of the commit, gone afterwards. Raises NoSuchRevision where git cannot make it."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="base-", dir=ROOT / "build") as name:
        tree = Path(name) / "tree"
        try:
            git("worktree", "add", "--detach", "--quiet", str(tree), commit)
        except subprocess.CalledProcessError as error:
            raise NoSuchRevision(f"git could not check out {commit[:12]}: {error.stderr.strip()}") from error
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def compare(base: Path, length: Length, rounds: int, name: str) -> dict[str, Figures]:
    """Both nodes run all the time; one is asked at a time. Raises Failed, WrongAnswer."""
    with tempfile.TemporaryDirectory(prefix="ccs-bench-") as directory, contextlib.ExitStack() as servers:
        population = Population(Path(directory), TOKENS)
        population.write()
        tokens = population.tokens(min(TOKENS, length.requests))
        nodes = {
            label: servers.enter_context(node(population, tokens, core(SERVER), tree=tree, name=folder))
            for label, tree, folder in ((name, base, "base"), (TREE, ROOT, "ours"))
        }
        measured = {label: round_of(one, length, core(GENERATOR)) for label, one in nodes.items()}
        return {label: figures(found) for label, found in interleave(measured, rounds).items()}


def ratios(base: Figures, ours: Figures) -> str:
    """One sentence."""
    cpu, rate = ours.cpu_us.median / base.cpu_us.median, ours.rate.median / base.rate.median
    apart = ours.cpu_us.greatest < base.cpu_us.least or base.cpu_us.greatest < ours.cpu_us.least
    told = "the rounds do not overlap" if apart else "the rounds overlap: no difference is shown"
    return f"work tree by base: CPU {cpu:.2f}x, rate {rate:.2f}x; {told}."


def main(arguments: list[str] | None = None) -> None:
    """Compare and tell; one sentence where that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", help="any name of a commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true", help="two short rounds: not to be quoted")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if not chosen.base:
        sys.exit("Say which revision to compare with: make bench-compare BASE=REVISION.")
    length = Length(1.0, 200, 4) if chosen.quick else Length(chosen.seconds)
    rounds = 2 if chosen.quick else chosen.rounds
    try:
        commit = resolve(chosen.base)
        name = f"base {commit[:12]}"
        if git("status", "--porcelain", "--", "engine"):
            print("The work tree's engine has changes that are not committed; they are measured with it.")
        with checked_out(commit) as tree:
            found = compare(tree, length, rounds, name)
    except (NoSuchRevision, WrongAnswer) as error:
        sys.exit(str(error))
    except Failed as error:
        sys.exit(f"A node did not start: {error}")
    print("\n".join([*lines(found), ratios(found[name], found[TREE])]))
    if chosen.json:
        print(as_json("revisions", found))


if __name__ == "__main__":
    main()
