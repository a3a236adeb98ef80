"""Training scripts of many habits, none of which knows of torchtide: the results are plain torch's.

Each script of strangers/ runs once as it is and then under `tide run`. Its result, saved by the
script itself, must be equal bit by bit. A few go through everything at the same time (a lane
beside another job, a limit of 60 %, a suspend and a resume in the middle); with
TIDE_TEST_STRANGERS=all every script does, and through each of these alone as well.
"""

from __future__ import annotations

import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cli_processes as processes
import pytest
import torch
from torchtide import _launch, errors
from torchtide.cli.client import Daemon, connect_core

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FOLDER = pathlib.Path(__file__).parent / "strangers"
DEADLINE_S = 600.0  # the machine may be busy with other builds
MIB = 1 << 20
MODES = ("alone", "lane", "limit", "suspend")
BRIEFLY = {"two_optimizers", "no_module", "worker_processes", "evaluation_inside"}
ALL = os.environ.get("TIDE_TEST_STRANGERS") == "all"


@dataclass(frozen=True)
class Stranger:
    """A script, how it is called, and when it is in its middle."""

    name: str
    middle: int  # boundaries that it has passed by then
    runs: tuple[tuple[str, ...], ...] = ((),)
    result: str = "result.pt"
    package: str = "torch"  # that it needs


STRANGERS = (
    Stranger("closures", 12),
    Stranger("two_optimizers", 12),
    Stranger("accumulation", 6),
    Stranger("no_optimizer", 12),
    Stranger("no_module", 12),
    Stranger("worker_processes", 12),
    Stranger("arguments", 20, runs=(("-b", "32", "--epochs", "4", "--limit", "320"),)),
    Stranger("config_tree", 12, runs=(("trainer.steps=24",),), result="outputs/run/result.pt"),
    Stranger("evaluation_inside", 40),
    Stranger("resume", 8, runs=(("1",), ("4",))),
    Stranger("lbfgs", 12),
    Stranger("hf_trainer", 8, package="transformers"),
    Stranger("lightning_module", 10, package="lightning"),
    Stranger("accelerate_loop", 10, package="accelerate"),
)


def environment(folder: pathlib.Path, **variables: str) -> dict[str, str]:
    """One thread a process: other jobs of a test run at the same time."""
    return processes.environment(
        folder, OMP_NUM_THREADS="1", TIDE_CAPACITY="6GiB", TIDE_SPILL_DIR=str(folder / "spill"),
        **variables,
    )  # fmt: skip


def command(stranger: Stranger, run: tuple[str, ...]) -> list[str]:
    return [sys.executable, str(FOLDER / f"{stranger.name}.py"), *run]


@pytest.fixture(scope="module")
def plain() -> Iterator[Callable[[Stranger], Any]]:
    """Results of the scripts without torchtide, each computed once."""
    known: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tide-plain-") as top:

        def result(stranger: Stranger) -> Any:
            pytest.importorskip(stranger.package)
            if stranger.name not in known:
                folder = pathlib.Path(top) / stranger.name
                folder.mkdir()
                for run in stranger.runs:
                    subprocess.run(
                        command(stranger, run), cwd=folder, check=True, timeout=DEADLINE_S,
                        env=environment(folder, TIDE_DISABLE="1"), capture_output=True,
                    )  # fmt: skip
                known[stranger.name] = load(folder / stranger.result)
            return known[stranger.name]

        yield result


def load(path: pathlib.Path) -> Any:
    return torch.load(path, weights_only=False)


def assert_same(found: Any, expected: Any, where: str = "result") -> None:
    """Fails unless both trees are equal, tensors and floats bit by bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), where
        pair = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (found, expected)]
        assert torch.equal(*pair), f"{where}: {int((pair[0] != pair[1]).sum())} bytes differ"
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        both_nan = isinstance(expected, float) and math.isnan(expected) and math.isnan(found)
        assert found == expected or both_nan, where


class Machine:
    """A daemon of its own; a stranger under it, and perhaps a neighbour in the same lane."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environ = environment(folder)
        self.jobs: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, words: list[str], **variables: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            job = subprocess.Popen(
                [*processes.TIDE, "run", "--name", name, "--", *words],
                env={**self.environ, **variables}, cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip
        self.jobs.append(job)
        return job

    def daemon(self) -> Daemon:
        _launch.ensure_daemon(self.folder / "run", environ=self.environ)
        client = connect_core(str(self.folder / "run" / "tided.sock"), DEADLINE_S)
        return Daemon(client, DEADLINE_S)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        for job in self.jobs:
            job.kill()
            job.wait()
        processes.tide(["shutdown"], self.environ, self.folder)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="tide-stranger-") as folder:
        machine = Machine(pathlib.Path(folder))
        try:
            yield machine
        finally:
            machine.close()


def record(daemon: Daemon, name: str) -> dict[str, Any]:
    jobs = daemon.query("ps")["jobs"]
    return next((job for job in jobs if job["name"] == name and job["state"] != "gone"), {})


def reach(
    machine: Machine, daemon: Daemon, name: str, iterations: int, job: subprocess.Popen[bytes]
) -> dict[str, Any]:
    """Waits until a job has passed so many boundaries."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        now = record(daemon, name)
        if now and int(now["iterations"]) >= iterations:
            return now
        assert job.poll() is None, f"{name} ended before its middle\n{machine.log(name)}"
        daemon.followed(0.02)
    raise AssertionError(f"{name} is {record(daemon, name)}\n{machine.log(name)}")


def squeeze(daemon: Daemon, now: dict[str, Any]) -> None:
    """Limits a job to 60 % of what it needs beyond the interpreter, or to the least it can have."""
    outside = int(now["outside"])
    wanted = outside + (int(now["peak"]) - outside) * 6 // 10
    try:
        daemon.command("limit", job=now["name"], bytes=wanted, timeout_ms=60_000)
    except errors.LimitConflict as error:
        least = int(error.parts["smallest"]) + 32 * MIB
        answer = daemon.command("limit", job=now["name"], bytes=least, timeout_ms=60_000)
        assert answer["status"] == "applied", answer


def suspend(machine: Machine, daemon: Daemon, name: str) -> None:
    """Takes a job's memory out, looks at it, waits until its user was told, brings it back."""
    before = daemon.command("pause", job=name, timeout_ms=60_000)
    assert before["status"] == "done", before
    still = record(daemon, name)
    assert still["state"] == "paused" and still["resident"] <= 64 * MIB, still
    end = time.monotonic() + DEADLINE_S
    while f"{name} is paused" not in machine.log(name):
        assert time.monotonic() < end, machine.log(name)
        daemon.followed(0.02)
    daemon.command("resume", job=name, timeout_ms=60_000)


def play(machine: Machine, stranger: Stranger, modes: set[str]) -> None:
    """Runs the stranger once under everything that `modes` name."""
    if "lane" in modes:
        neighbour = machine.start("neighbour", [sys.executable, str(FOLDER / "neighbour.py")])
    for number, run in enumerate(stranger.runs):
        lane = "0" if "lane" in modes else "-1"
        job = machine.start("stranger", command(stranger, run), TIDE_LANE=lane)
        last = number == len(stranger.runs) - 1
        if last and modes & {"limit", "suspend"}:
            daemon = machine.daemon()
            daemon.query("events", follow=True, count=1)
            now = reach(machine, daemon, "stranger", stranger.middle // 2, job)
            if "limit" in modes:
                squeeze(daemon, now)
            reach(machine, daemon, "stranger", stranger.middle, job)
            if "suspend" in modes:
                suspend(machine, daemon, "stranger")
        assert job.wait(DEADLINE_S) == 0, machine.log("stranger")
    log = machine.log("stranger")
    assert "not hooked" not in log
    assert ("stranger is paused" in log and "goes on after" in log) == ("suspend" in modes), log
    if "lane" in modes:
        assert neighbour.poll() is None, machine.log("neighbour")


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.name)
def test_a_strangers_script_computes_the_same_under_everything_at_once(
    stranger: Stranger, plain: Callable[[Stranger], Any], machine: Machine
) -> None:
    if not ALL and stranger.name not in BRIEFLY:
        pytest.skip("TIDE_TEST_STRANGERS=all runs it")
    expected = plain(stranger)
    play(machine, stranger, {"lane", "limit", "suspend"})
    assert_same(load(machine.folder / stranger.result), expected)


@pytest.mark.skipif(not ALL, reason="TIDE_TEST_STRANGERS=all runs the whole matrix")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.name)
def test_a_strangers_script_computes_the_same(
    stranger: Stranger, mode: str, plain: Callable[[Stranger], Any], machine: Machine
) -> None:
    expected = plain(stranger)
    play(machine, stranger, {mode})
    assert_same(load(machine.folder / stranger.result), expected)
