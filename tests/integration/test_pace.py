"""A guaranteed job slows an opportunistic one, which still does what it is told, bit for bit."""

import json
import pathlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator

import cli_processes as processes
import pytest
import torch  # noqa: F401  (this test runs on every supported torch)
from live_machine import DEADLINE_S, Machine

pytestmark = [pytest.mark.integration, pytest.mark.one_torch]

#: Steps until the file STOP is there (0: for ever), or so many; a digest of all bits at the end.
DIGEST = """
import hashlib, pathlib, sys
import torch
torch.manual_seed(0)
torch.set_num_threads(1)
linear = torch.nn.Linear
model = torch.nn.Sequential(linear(512, 512), torch.nn.ReLU(), linear(512, 512))
optimizer = torch.optim.Adam(model.parameters())
steps, stop = int(sys.argv[1]), pathlib.Path(sys.argv[2])
done = 0
while not (done >= steps and (stop.exists() or sys.argv[2] == "-")):
    batch = torch.randn(64, 512)
    loss = (model(batch) - batch).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    done += 1
    if done == steps:
        sha = hashlib.sha256()
        for tensor in model.state_dict().values():
            sha.update(tensor.numpy().tobytes())
        for state in optimizer.state.values():
            sha.update(state["exp_avg_sq"].numpy().tobytes())
        print(sys.argv[3], sha.hexdigest(), flush=True)
"""


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="tide-pace-") as name:
        (pathlib.Path(name) / "digest.py").write_text(DIGEST)
        yield pathlib.Path(name)


def job(machine: Machine, name: str, priority: str, *script: str) -> subprocess.Popen[bytes]:
    """Starts a job that takes no turns: the two run at the same time."""
    options = ("--lane", "-1", "--name", name, "--priority", priority)
    return machine.start(*options, "--", "python", *script)


def digests(machine: Machine) -> dict[str, str]:
    """What jobs have printed: name -> digest."""
    lines = (machine.folder / "log").read_text().splitlines()
    return dict(line.split() for line in lines if len(line.split()) == 2 and len(line) > 64)


def test_the_opportunistic_job_is_slowed_and_let_go_and_both_compute_what_they_do_alone(
    folder: pathlib.Path,
) -> None:
    machine = Machine(folder, TIDE_CAPACITY="8GiB")
    stop = str(folder / "stop")
    try:
        alone = job(machine, "alone", "normal", "digest.py", "40", "-", "alone")
        assert alone.wait(DEADLINE_S) == 0
        paper = job(machine, "paper", "guaranteed", "digest.py", "40", stop, "paper")
        machine.until(lambda now: int(now["iterations"]) > 8, "paper")
        sweep = job(machine, "sweep", "opportunistic", "digest.py", "40", stop, "sweep")
        machine.until(lambda now: now["pace"] < 0.5, "sweep")
        assert machine.record("paper")["pace"] == 1
        machine.until(lambda now: (now["slowdown"] or 0) > 0, "paper")
        machine.until(lambda now: int(now["iterations"]) > 3, "sweep")
        explained = json.loads(machine.tide("explain", "sweep", "--json"))
        if explained["reason"] == "slowed":  # unless it disturbs nobody by now
            assert "for paper" in explained["text"] and "law aimd" in explained["text"]
        (folder / "stop").touch()
        assert paper.wait(DEADLINE_S) == 0
        assert sweep.wait(DEADLINE_S) == 0
        told = machine.tide("events", "--job", "sweep", "-n", "0")
        assert "of the time for paper (aimd)" in told
        assert "runs freely again" in told
        found = digests(machine)
        assert found["paper"] == found["sweep"] == found["alone"]
    finally:
        machine.close()


def test_a_job_that_waits_for_its_pace_answers_pause_priority_and_ctrl_c(
    folder: pathlib.Path,
) -> None:
    machine = Machine(folder, TIDE_CAPACITY="8GiB", TIDE_PACE_MIN="0.001")
    try:
        job(machine, "paper", "guaranteed", "train.py")
        machine.until(lambda now: int(now["iterations"]) > 8, "paper")
        sweep = job(machine, "sweep", "opportunistic", "train.py")
        machine.until(lambda now: now["pace"] < 0.01, "sweep")
        begin = time.monotonic()
        machine.tide("pause", "sweep")
        machine.until(lambda now: now["state"] == "paused", "sweep")
        machine.tide("resume", "sweep")
        machine.until(lambda now: now["state"] != "paused", "sweep")
        stands = int(machine.record("sweep")["iterations"])
        machine.tide("priority", "sweep", "normal")
        machine.until(lambda now: now["pace"] == 1, "sweep")
        machine.until(lambda now: int(now["iterations"]) > stands + 5, "sweep")
        machine.tide("priority", "sweep", "opportunistic")
        machine.until(lambda now: now["pace"] < 0.01, "sweep")
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(20) != 0
        assert time.monotonic() - begin < DEADLINE_S
    finally:
        machine.close()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TIDE_PACE_LAW", "fast", "pace.law"),
        ("TIDE_PACE_LOSS_ALLOWED", "3", "pace.loss_allowed"),
        ("TIDE_PACE_MIN", "0", "pace.min"),
        ("TIDE_PACE_MIN", "little", "pace.min"),
    ],
)
def test_a_pace_that_makes_no_sense_is_refused_by_name(
    folder: pathlib.Path, variable: str, value: str, said: str
) -> None:
    environ = processes.environment(folder, TIDE_DAEMON="off", **{variable: value})
    ended = processes.tide(["run", "--", "python", "-c", "import torch"], environ, folder)
    assert ended.returncode != 0
    assert said in ended.stderr and value in ended.stderr
