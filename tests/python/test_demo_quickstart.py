"""The quickstart from end to end with stand-ins for the jobs: small scripts without torch."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from torchtide.demo import confine, quickstart
from torchtide.demo.jobs import JOBS

MIB = 1 << 20
#: Holds 80 MiB for as long as it "trains"; the result depends on nothing but the steps.
STAND_IN = """
import argparse, json, threading, time
parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int)
parser.add_argument("--out")
args = parser.parse_args()
times = [time.monotonic()]
for _ in range(args.steps):
    held = b"x" * (80 << 20)
    threading.Event().wait(0.05)
    times.append(time.monotonic())
record = {"digests": {"parameter w": "aa"}, "losses": [0.5.hex()], "times": times}
record |= {"state_bytes": 20 << 20, "parameter_bytes": 10 << 20}
open(args.out, "w").write(json.dumps(record))
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree whose examples are stand-ins."""
    (tmp_path / "examples").mkdir()
    for job in JOBS:
        (tmp_path / "examples" / f"{job.name}.py").write_text(STAND_IN)
    monkeypatch.setattr(quickstart, "TREE", tmp_path)
    monkeypatch.setattr(quickstart, "MODULES", ("json",))
    monkeypatch.setattr(quickstart, "versions_of", lambda: "none")
    return tmp_path


def run(tree: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = quickstart.main(["--out", str(tree / "out"), *arguments])
    return status, capsys.readouterr().out


def test_solo_runs_measure_and_agree(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(tree, capsys, "--until", "solo", "--json")
    data = json.loads(text.splitlines()[-1])
    assert status == 0
    assert data["solo_equal"] is True
    assert [job["name"] for job in data["jobs"]] == [job.name for job in JOBS]
    assert all(80 * MIB < job["solo_peak_bytes"] < 200 * MIB for job in data["jobs"])
    assert [job["steps"] for job in data["jobs"]] == [1] * 4
    assert data["capacity_bytes"] < data["sum_solo_peaks"]


def test_a_second_run_goes_straight_to_the_job(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tree, capsys, "--until", "solo", "--quick")
    monkeypatch.setattr(confine, "run", lambda *_, **__: pytest.fail("measured again"))
    status, text = run(tree, capsys, "--until", "solo", "--quick")
    assert status == 0 and "as measured before" in text


@pytest.mark.slow
def test_a_changed_script_is_measured_again(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tree, capsys, "--until", "solo", "--quick")
    changed = tree / "examples" / f"{JOBS[1].name}.py"
    changed.write_text(STAND_IN + "\n")
    _, text = run(tree, capsys, "--until", "solo", "--quick")
    assert f"{JOBS[1].name} alone" in text and f"{JOBS[0].name} alone" not in text


@pytest.mark.slow
def test_plain_jobs_that_do_not_fit_are_killed(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # enough for one and a half of the stand-ins
    monkeypatch.setattr(quickstart, "capacity_bytes", lambda peaks: max(peaks) * 3 // 2)
    status, text = run(tree, capsys, "--until", "plain", "--json")
    data = json.loads(text.splitlines()[-1])
    assert status == 0
    assert data["jobs_failed_plain"] >= 1
    assert data["peak_kernel_plain"] > 0
    assert "killed: out of memory" in [job["plain"] for job in data["jobs"]]
    assert (tree / "out" / "quickstart.png").is_file()


@pytest.mark.slow
def test_two_solo_runs_that_differ_are_told(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tree / "examples" / f"{quickstart.CONTROL}.py"
    script.write_text(STAND_IN.replace('"aa"', "str(times[0])"))
    status, text = run(tree, capsys, "--until", "solo")
    assert status == 1
    assert f"two solo runs of {quickstart.CONTROL} differ already" in text


def test_a_job_that_fails_alone_ends_the_quickstart(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "examples" / f"{JOBS[0].name}.py").write_text("raise SystemExit('no pictures')")
    with pytest.raises(SystemExit, match="even alone: no pictures"):
        run(tree, capsys, "--until", "solo")


def test_a_tree_without_examples_is_told(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "examples" / f"{JOBS[0].name}.py").unlink()
    with pytest.raises(SystemExit, match="source tree"):
        run(tree, capsys)


def test_under_tide_each_job_is_started_by_tide_run(tmp_path: Path, tree: Path) -> None:
    plan = quickstart.Plan(
        tmp_path,
        "python",
        "none",
        quick=True,
        fresh=False,
        console=SimpleNamespace(),  # type: ignore[arg-type]
    )
    command = plan.command(JOBS[0], "tide")
    name = JOBS[0].name
    assert command.argv[:7] == ["python", "-m", "torchtide", "run", "--name", name, "--"]
    plain = plan.command(JOBS[0], "plain").argv
    assert command.argv[7:-1] == plain[:-1]
    assert command.argv[-1] != plain[-1]


def test_an_old_result_is_not_taken_for_a_new_one(tmp_path: Path, tree: Path) -> None:
    plan = quickstart.Plan(
        tmp_path,
        "python",
        "none",
        quick=True,
        fresh=False,
        console=SimpleNamespace(),  # type: ignore[arg-type]
    )
    old = plan.record_path(JOBS[0], "tide")
    old.parent.mkdir()
    old.write_text("{}")
    plan.command(JOBS[0], "tide")
    assert not old.exists()
