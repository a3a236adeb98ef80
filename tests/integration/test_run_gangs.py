"""Gangs: ranks of two jobs share a lane, one job's iteration at a time, and end with their bits."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch  # noqa: F401  (this test runs on every supported torch)
from elastic_harness import PACED, started, without_daemon
from elastic_harness import await_step as await_elastic_step
from elastic_harness import tide as ask
from gang_harness import DEADLINE_S, Machine, await_step, ended, machine_of, options_of

pytestmark = [pytest.mark.integration, pytest.mark.slow]

#: Processes that start beside others on two busy cores take long.
PATIENT = ("--timeout", "280")
#: Trains until it is ended; each block of its iterations has 2 MiB.
PLAIN = """
import torch
from torchtide import _core
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(10**9):
    optimizer.zero_grad()
    model(torch.randn(1024, 64)).pow(2).mean().backward()
    optimizer.step()
    if step % 20 == 0:
        print("lane", _core.report()["lane_allocations"], flush=True)
"""


@pytest.fixture()
def machine() -> Iterator[Machine]:
    with machine_of() as found:
        yield found


def alone(machine: Machine, *seeds: int, steps: int) -> list[set[str]]:
    for seed in seeds:
        ended(machine.start(f"alone{seed}", *options_of(seed, steps), tide=False))
    return [machine.digest(f"alone{seed}") for seed in seeds]


def train_together(machine: Machine, steps: int, *options: str, **env: str) -> None:
    """Two jobs that both train until both have made `steps` steps beside the other."""
    jobs = [machine.start(f"j{s}", *options_of(s, steps), *options, **env) for s in (0, 1)]
    for job in jobs:
        ended(job)


def test_ranks_of_two_jobs_share_a_lane_and_end_with_their_bits(machine: Machine) -> None:
    solo = alone(machine, 0, 1, steps=250)
    train_together(machine, 250)
    assert [machine.digest("j0"), machine.digest("j1")] == solo
    for rank in machine.said("j0") + machine.said("j1"):
        assert rank["lane_allocations"] > 100, "each rank ran on its seat's pages"
        assert rank["wait_seconds_total"] > 0
    lanes = machine.tide("policy")["lanes"]
    assert [lane["id"] for lane in lanes] == [0], "seats are no lanes of their own"
    assert lanes[0]["handovers"] > 50


@pytest.mark.one_torch
def test_switched_off_ranks_take_no_turns(machine: Machine) -> None:
    train_together(machine, 40, TIDE_LANE_GANG="0")
    for rank in machine.said("j0") + machine.said("j1"):
        assert rank["lane_allocations"] == 0


@pytest.mark.one_torch
def test_a_rank_that_evaluates_alone_stops_nobody(machine: Machine) -> None:
    solo = alone(machine, 0, 1, steps=60)
    train_together(machine, 60, "--evaluate")
    assert [machine.digest("j0"), machine.digest("j1")] == solo


@pytest.mark.one_torch
@pytest.mark.parametrize("rank", [0, 1])
def test_a_neighbour_trains_on_when_a_rank_is_killed(machine: Machine, rank: int) -> None:
    steps, until = 150, machine.folder / "until"
    solo = alone(machine, 0, steps=steps)
    doomed = machine.start("j1", *options_of(1, 10), "--until", str(until))
    await_step(doomed, rank, 5)
    other = machine.start("j0", *options_of(0, steps))
    await_step(other, 0, 20)
    os.kill(await_step(doomed, rank, 6), signal.SIGKILL)
    ended(other)
    doomed.communicate(timeout=DEADLINE_S)
    assert doomed.returncode != 0
    assert machine.digest("j0") == solo[0]


@pytest.mark.one_torch
@pytest.mark.parametrize("first", [1, 2])
def test_an_elastic_job_and_a_plain_one_take_turns_across_a_resize(
    tmp_path: pathlib.Path, first: int
) -> None:
    pytest.importorskip("sklearn")
    environ = without_daemon(tmp_path) | {
        "TIDE_LANE_QUANTUM_MS": "0",
        "OMP_NUM_THREADS": "1",
    }
    solo, moved, pipe = tmp_path / "alone.json", tmp_path / "moved.json", tmp_path / "go"
    os.mkfifo(pipe)
    once = [sys.executable, PACED, "-", "--epochs", "2", "--out", str(solo)]
    subprocess.run(once, env=environ, check=True, timeout=DEADLINE_S, capture_output=True)
    paced = [
        sys.executable,
        PACED,
        str(pipe),
        "0.005",
        "--epochs",
        "2",
        "--out",
        str(moved),
    ]
    plain = [sys.executable, "-c", PLAIN]
    with started(environ, "--processes", "1:2", "--name", "digits", "--", *paced) as job:
        await_elastic_step(job, 1)
        go = os.open(pipe, os.O_RDWR)
        if first == 2:
            assert ask(environ, "resize", "digits", "2", *PATIENT)[0] == 0
        with started(environ, "--name", "plain", "--", *plain) as neighbour:
            blocks = await_lane(neighbour, 20)
            assert ask(environ, "resize", "digits", str(3 - first), "--timeout", "280")[0] == 0
            await_lane(neighbour, blocks + 20)
            os.write(go, b"go")
            job.communicate(timeout=DEADLINE_S)
        os.close(go)
        assert job.returncode == 0
    assert json.loads(moved.read_text()) == json.loads(solo.read_text())


def await_lane(job: Any, wanted: int) -> int:
    """Reads the plain job's output until so many blocks of it were in the lane's pages."""
    end = time.monotonic() + DEADLINE_S
    for line in job.stdout:
        if line.startswith("lane ") and int(line.split()[1]) >= wanted:
            return int(line.split()[1])
        assert time.monotonic() < end
    raise AssertionError("the plain job ended")
