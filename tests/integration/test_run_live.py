"""The commands against the real daemon and a job that trains: a user's first minutes."""

import contextlib
import itertools
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator

import cli_processes as processes
import pytest
import torch  # noqa: F401  (this test runs on every supported torch)
from live_machine import DEADLINE_S, TRAIN, Machine

pytestmark = pytest.mark.integration
MIB = 1 << 20


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="tide-live-") as folder:
        machine = Machine(pathlib.Path(folder), TIDE_CAPACITY="4GiB")
        machine.start("--limit", "1GiB", "--", "python", "train.py")
        try:
            machine.until(lambda job: int(job["iterations"]) > 8)
            yield machine
        finally:
            machine.close()


def test_a_script_without_changes_is_a_job_with_its_figures(machine: Machine) -> None:
    job = machine.record()
    assert job["pid"] == machine.jobs[0].pid
    assert (job["limit"], job["priority"]) == (1 << 30, "normal")
    machine.until(lambda now: now["resident"] > 8 * MIB and now["steps_per_s"] > 0)
    table = machine.tide("ps")
    assert "train" in table and "1 GiB" in table
    picture = machine.tide("top", "--once")
    assert "of 4 GiB" in picture and "lane 0" in picture


@pytest.mark.one_torch
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab_completes_the_name_of_the_job_that_runs(machine: Machine, shell: str) -> None:
    asked = {
        "_TIDE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "tide pause tr",
        "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": "tide pause tr",
    }
    ended = processes.tide([], {**machine.environ, **asked}, machine.folder)
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"[\w-]+", ended.stdout.replace("_arguments", ""))[-1:] == ["train"]


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("sys.exit(3)", 3),
        ("raise SystemExit(143)", 143),
        ("raise ValueError('of the test')", 1),
        ("raise KeyboardInterrupt", 130),
        ("pass", 0),
    ],
)
def test_the_end_of_a_job_is_told_with_its_own_exit_code(
    machine: Machine, how: str, code: int
) -> None:
    name = f"end{code}"
    script = TRAIN.replace("while True:", "for _ in range(2):") + f"import sys\n{how}\n"
    (machine.folder / f"{name}.py").write_text(script)
    machine.start("--", "python", f"{name}.py").wait(DEADLINE_S)
    machine.until(lambda job: "exit" in job, name)
    assert machine.record(name)["exit"]["code"] == code
    assert f"exit code {code}" in machine.tide("explain", name)


def test_a_limit_takes_effect_and_says_how_to_undo_it(machine: Machine) -> None:
    said = machine.tide("limit", "train", "25%")
    assert "limit of train is 1 GiB" in said
    said = machine.tide("limit", "train", "900MiB")
    assert "limit of train is 900 MiB" in said and "undo: tide limit train 1GiB" in said
    assert machine.record()["limit"] == 900 * MIB


def test_a_limit_that_is_too_low_is_refused_and_the_advised_one_works(machine: Machine) -> None:
    before = machine.record()["limit"]
    told = json.loads(machine.tide("limit", "train", "16MiB", "--json", code=6).splitlines()[0])
    assert told["error"]["kind"] == "LimitConflict"
    assert told["error"]["parts"]["outside"] > 0
    assert machine.record()["limit"] == before
    advised = told["error"]["advice"].split("`")[1].split()
    assert advised[:3] == ["tide", "limit", "train"]
    assert "limit of train" in machine.tide(*advised[1:])


def test_a_paused_job_stands_still_and_goes_on(machine: Machine) -> None:
    said = " ".join(machine.tide("pause", "train", "--deep").split())
    assert "train is paused" in said and "stayed: it has none, since it uses no device" in said
    machine.until(lambda job: job["state"] == "paused")
    still = machine.record()["iterations"]
    assert "was paused already" in machine.tide("pause", "train")
    assert machine.record()["iterations"] == still
    assert "train goes on" in machine.tide("resume", "train")
    machine.until(lambda job: int(job["iterations"]) > still)


@pytest.mark.one_torch
def test_explain_and_events_are_sentences_with_numbers(machine: Machine) -> None:
    assert machine.tide("explain", "train").startswith("train")
    assert "train started: pid" in machine.tide("events", "--job", "train", "-n", "0")
    assert json.loads(machine.tide("events", "--json"))["events"]


@pytest.mark.one_torch
def test_followed_events_arrive_as_they_happen(machine: Machine) -> None:
    follower = subprocess.Popen(
        [*processes.TIDE, "events", "-f", "-n", "1", "--json"],
        env=machine.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout is not None
        last = json.loads(follower.stdout.readline())["seq"]
        levels = itertools.cycle(("opportunistic", "normal"))
        deadline = time.monotonic() + DEADLINE_S
        machine.tide("priority", "train", next(levels))
        while not select.select([follower.stdout], [], [], 10)[0]:
            assert time.monotonic() < deadline, "no event came"
            machine.tide("priority", "train", next(levels))
        told = json.loads(follower.stdout.readline())
        assert told["seq"] > last and told["job"] == "train"
        while follower.poll() is None and time.monotonic() < deadline:
            follower.send_signal(signal.SIGINT)  # again where one came before Python looked
            with contextlib.suppress(subprocess.TimeoutExpired):
                follower.wait(10)
        assert follower.poll() == 0
    finally:
        follower.kill()
        follower.wait()
    machine.tide("priority", "train", "normal")


@pytest.mark.one_torch
def test_the_policy_of_a_lane_can_be_changed(machine: Machine) -> None:
    machine.tide("policy", "rr")
    assert json.loads(machine.tide("policy", "--json"))["lanes"][0]["policy"] == "rr"
    assert "lottery" in machine.tide("policy", "0", "lottery", code=2)
    machine.tide("policy", "0", "fair")


@pytest.mark.one_torch
def test_an_unknown_job_is_told_with_the_one_that_was_meant(machine: Machine) -> None:
    assert "did you mean train?" in machine.tide("pause", "trian", code=3)


def test_the_doctor_finds_the_daemon(machine: Machine) -> None:
    ended = processes.tide(["doctor", "--json"], machine.environ, machine.folder)
    found = {check["name"]: check for check in json.loads(ended.stdout)["checks"]}
    assert str(machine.daemon_pid()) in found["daemon"]["found"]
    assert found["torch"]["level"] == "ok"


def test_a_job_that_ended_has_its_exit_code_and_is_shown_as_gone(machine: Machine) -> None:
    (machine.folder / "short.py").write_text("import torch; raise SystemExit(3)")
    assert machine.start("--", "python", "short.py").wait(DEADLINE_S) == 3
    machine.until(lambda job: job["state"] == "gone", "short")


def test_jobs_train_on_without_the_daemon_and_find_the_next_one(machine: Machine) -> None:
    os.kill(machine.daemon_pid(), signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    ended = processes.tide(["ps", "--json"], machine.environ, machine.folder)
    while ended.returncode == 0 and time.monotonic() < deadline:
        ended = processes.tide(["ps", "--json"], machine.environ, machine.folder)
    assert (ended.returncode, json.loads(ended.stdout)) == (4, {"jobs": []})
    assert machine.jobs[0].poll() is None
    assert machine.start("--", "true").wait(DEADLINE_S) == 0
    machine.until(lambda job: bool(job["attached"]) and int(job["iterations"]) > 0)
    assert machine.record()["pid"] == machine.jobs[0].pid
