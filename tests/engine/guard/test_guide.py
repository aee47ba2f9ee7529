"""What the EDP's guide says of the guard is what the guard does; its examples in other languages use the real names."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.guard.circuit import BUFFER, FAILURES_UNTIL_SUSPENDED, GOOD_TO_CLOSE, PROBE_EVERY, RAMP, SUSPENDED_EVERY
from engine.guard.config import Policy
from engine.guard.doorkeeper import MIN_SECRET
from engine.guard.requests import MAX_SHARES, read_check, verdict_json
from engine.guard.shares import Reason, Verdict

PAGE = (Path(__file__).parents[3] / "docs/edp.md").read_text()
GUIDE = PAGE[PAGE.index("## With our guard") : PAGE.index("## After a loss")]
SHARING = {Reason.CONSENTED, Reason.LAST_KNOWN}


def example(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    return found


def test_every_reason_is_explained_and_said_to_share_or_not() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", GUIDE, re.MULTILINE))
    assert told == {reason.value: "yes" if reason in SHARING else "no" for reason in Reason}


def test_the_times_of_an_outage_are_the_guards_own() -> None:
    assert (BUFFER, PROBE_EVERY, SUSPENDED_EVERY) == (60.0, 60.0, 900.0)
    assert (FAILURES_UNTIL_SUSPENDED, GOOD_TO_CLOSE) == (10, 3)
    assert RAMP == ((60.0, 0.1), (120.0, 0.5))
    for said in ("for 60 s", "one probe a minute", "10 probes failed", "one probe in 15 minutes", "3 good probes"):
        assert said in GUIDE
    assert Policy().outage_cap == 24 * 3600
    assert "24 h after the beginning" in GUIDE
    assert f"1 to {MAX_SHARES} of those" in GUIDE
    assert f"{MIN_SECRET} characters or more" in GUIDE


@pytest.mark.parametrize("language", ["java", "go"])
def test_an_example_asks_by_the_real_names(language: str) -> None:
    code = example(language)
    assert "/v1/check" in code
    members = set(re.findall(r'"(\w+)": "', code)) | set(re.findall(r'"(\w+)": os\.Args', code))
    values = {
        "token": "eyJ.x.y", "x5t_s256": "A" * 43, "dataset_id": "hh-electricity-import",
        "mpxn": "mpan:1000000000012", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z",
    }  # fmt: skip
    assert members == values.keys()
    assert read_check(json.dumps(values).encode()).mpxn == "mpan:1000000000012"


def test_what_the_go_example_reads_is_there() -> None:
    verdict = Verdict(allowed=True, reason=Reason.CONSENTED, evidence_id="e", retry_after=1.0)
    assert set(re.findall(r'`json:"(\w+)"`', example("go"))) <= json.loads(verdict_json(verdict)).keys()


def test_the_go_example_is_go() -> None:
    if not shutil.which("gofmt"):
        pytest.skip("no Go here")
    done = subprocess.run(["gofmt", "-l", "-e"], input=example("go"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_every_call_of_the_sidecar_is_listed() -> None:
    from engine.guard.doorkeeper import Door
    from engine.guard.sidecar import Sidecar
    from tests.support.guards import ToldHealth, ToldJudge

    sidecar = Sidecar(ToldJudge(), Door(), ToldHealth(), lambda _evidence_id: None)
    for path in (*sidecar._open, *sidecar._guarded):
        assert f"{path.decode()}`" in GUIDE
