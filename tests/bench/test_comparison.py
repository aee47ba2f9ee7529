"""The comparison runs with what needs no download, and says in a sentence what it leaves out."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from bench import contenders
from bench.comparison import main, plan_of
from bench.contenders import Absent, Failed, started, wait_listening
from bench.generator import Length
from bench.names import COLD, OURS, QUART
from bench.revisions import NoSuchRevision, checked_out, compare, git, ratios, resolve
from bench.revisions import main as compare_revisions
from bench.rivals.nginx import binary, constant
from bench.rounds import Measured, WrongAnswer, figures, interleave

RIVALS = Path(contenders.__file__).parent / "rivals"


def test_a_quick_run_compares_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert {OURS, QUART, COLD} <= set(found["contenders"])
    assert all(one["cpu_us"]["least"] > 0 for one in found["contenders"].values())
    assert all(why in said.err for why in found["skipped"].values())


def test_a_quick_run_is_short() -> None:
    plan = plan_of(["--quick"])
    assert (plan.rounds, plan.length().requests) == (2, 200)


def test_what_is_not_installed_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_names, **_more: None)
    with pytest.raises(Absent, match=r"^nginx's constant is left out: install nginx [^.]*\.$"):
        binary()
    with pytest.raises(Absent, match=r"^node-oidc-provider is left out: install Node.js [^.]*\.$"):
        contenders.install_oidc()


def test_a_contender_that_dies_at_once_is_told_with_its_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started([sys.executable, "-c", "import sys; sys.exit('no room')"], {0}, log) as process:
        process.wait()
        with pytest.raises(Failed, match="no room"):
            wait_listening(1, process, log)


def test_the_constant_has_the_size_asked_for() -> None:
    body = constant(700)
    assert len(body) == 700
    assert json.loads(body)["active"] is True


def test_the_rival_is_pinned_with_hashes_and_names_no_host() -> None:
    lock = (RIVALS / "oidc/package-lock.json").read_text()
    packages = {name: one for name, one in json.loads(lock)["packages"].items() if name}
    assert "://" not in lock
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    wanted = json.loads((RIVALS / "oidc/package.json").read_text())["dependencies"]
    assert wanted == {"oidc-provider": packages["node_modules/oidc-provider"]["version"]}


def test_a_revision_that_is_none_is_refused_in_one_sentence() -> None:
    with pytest.raises(NoSuchRevision, match=r"^'no-such' names no commit of this repository\.$"):
        resolve("no-such")
    with pytest.raises(SystemExit, match="names no commit"):
        compare_revisions(["no-such"])
    with pytest.raises(SystemExit, match="BASE=REVISION"):
        compare_revisions([""])


def test_ratios_say_whether_the_rounds_overlap() -> None:
    slow = figures([Measured(100, 1.0, 0.010), Measured(100, 1.0, 0.012)])
    fast = figures([Measured(200, 1.0, 0.010), Measured(200, 1.0, 0.011)])
    assert ratios(slow, fast) == "work tree by base: CPU 0.48x, rate 2.00x; the rounds do not overlap."
    assert ratios(slow, slow).endswith("the rounds overlap: no difference is shown.")


def test_two_trees_are_compared_with_one_population() -> None:
    found = compare(contenders.ROOT, Length(1.0, 100, 4), 1, "base")
    assert list(found) == ["base", "work tree"]
    assert all(one.cpu_us.least > 0 for one in found.values())


def test_a_worktree_is_of_the_commit_and_is_removed() -> None:
    if not (contenders.ROOT / ".git").exists():
        pytest.skip("not a git clone")
    with checked_out(resolve("HEAD")) as tree:
        assert (tree / "engine/node/supervisor.py").exists()
        assert str(tree) in git("worktree", "list")
    assert not tree.exists()
    assert str(tree) not in git("worktree", "list")


def test_a_round_that_went_wrong_says_whose_it_was() -> None:
    def wrong() -> Measured:
        raise WrongAnswer("it hung up")

    with pytest.raises(WrongAnswer, match=r"^ours: it hung up$"):
        interleave({"ours": wrong}, 1)
