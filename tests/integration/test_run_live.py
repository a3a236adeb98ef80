"""The commands against the real daemon and a job that trains: a user's first minutes."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cli_processes as processes
import pytest
import torch  # noqa: F401  (this test runs on every supported torch)

pytestmark = pytest.mark.integration
MIB = 1 << 20
DEADLINE_S = 90.0

TRAIN = """
import torch
torch.set_num_threads(1)
linear = torch.nn.Linear
model = torch.nn.Sequential(linear(1024, 1024), torch.nn.ReLU(), linear(1024, 1024))
optimizer = torch.optim.Adam(model.parameters())
while True:
    batch = torch.randn(64, 1024)
    loss = (model(batch) - batch).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


class Machine:
    """A daemon of its own, and one job that trains until it is told to end."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environ = processes.environment(folder, TIDE_CAPACITY="4GiB")
        (folder / "train.py").write_text(TRAIN)
        self.job = self.start("--limit", "1GiB", "--", "python", "train.py")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`tide run` in the background."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*processes.TIDE, "run", *arguments],
                env=self.environ,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    def tide(self, *arguments: str, code: int = 0) -> str:
        """Output of a command that must end with `code`."""
        ended = processes.tide(arguments, self.environ, self.folder)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def record(self, name: str = "train") -> dict[str, Any]:
        """A job as `ps --json` has it; empty when there is none."""
        ended = processes.tide(["ps", "--json"], self.environ, self.folder)
        jobs = json.loads(ended.stdout)["jobs"]
        return next((job for job in jobs if job["name"] == name), {})

    def until(self, condition: Callable[[dict[str, Any]], bool], name: str = "train") -> None:
        """Asks again until the record of a job is as it should be."""
        deadline = time.monotonic() + DEADLINE_S
        record: dict[str, Any] = {}
        while time.monotonic() < deadline:
            record = self.record(name)
            if record and condition(record):
                return
        log = (self.folder / "log").read_text()
        raise AssertionError(f"{name} is {record}\n{log}")

    def daemon_pid(self) -> int:
        return int((self.folder / "run" / "tided.pid").read_text())

    def close(self) -> None:
        self.job.kill()
        self.job.wait()
        processes.tide(["shutdown"], self.environ, self.folder)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="tide-live-") as folder:
        machine = Machine(pathlib.Path(folder))
        try:
            machine.until(lambda job: int(job["iterations"]) > 8)
            yield machine
        finally:
            machine.close()


def test_a_script_without_changes_is_a_job_with_its_figures(machine: Machine) -> None:
    job = machine.record()
    assert job["pid"] == machine.job.pid
    assert (job["limit"], job["priority"]) == (1 << 30, "normal")
    machine.until(lambda now: now["resident"] > 8 * MIB and now["steps_per_s"] > 0)
    table = machine.tide("ps")
    assert "train" in table and "1 GiB" in table
    picture = machine.tide("top", "--once")
    assert "of 4 GiB" in picture and "lane 0" in picture


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
    assert "train is paused" in machine.tide("pause", "train")
    machine.until(lambda job: job["state"] == "paused")
    still = machine.record()["iterations"]
    assert "was paused already" in machine.tide("pause", "train")
    assert machine.record()["iterations"] == still
    assert "train goes on" in machine.tide("resume", "train")
    machine.until(lambda job: int(job["iterations"]) > still)


def test_explain_and_events_are_sentences_with_numbers(machine: Machine) -> None:
    assert machine.tide("explain", "train").startswith("train")
    assert "train started: pid" in machine.tide("events", "--job", "train", "-n", "0")
    assert json.loads(machine.tide("events", "--json"))["events"]


def test_followed_events_arrive_as_they_happen(machine: Machine) -> None:
    with subprocess.Popen(
        [*processes.TIDE, "events", "-f", "-n", "1", "--json"],
        env=machine.environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        last = json.loads(follower.stdout.readline())["seq"]
        machine.tide("priority", "train", "opportunistic")
        told = json.loads(follower.stdout.readline())
        assert told["seq"] > last and told["job"] == "train"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == 0
    machine.tide("priority", "train", "normal")


def test_the_policy_of_a_lane_can_be_changed(machine: Machine) -> None:
    machine.tide("policy", "rr")
    assert json.loads(machine.tide("policy", "--json"))["lanes"][0]["policy"] == "rr"
    assert "lottery" in machine.tide("policy", "0", "lottery", code=2)
    machine.tide("policy", "0", "fair")


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
    assert machine.job.poll() is None
    assert machine.start("--", "true").wait(DEADLINE_S) == 0
    machine.until(lambda job: bool(job["attached"]) and int(job["iterations"]) > 0)
    assert machine.record()["pid"] == machine.job.pid
