"""Jobs of two ranks beside a plain job that keeps the turn for as long as a test wants."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cli_processes as processes
import pytest
from elastic_harness import PACED
from elastic_harness import await_step as await_elastic_step

SCRIPT = str(pathlib.Path(__file__).parent / "scripts" / "gang_ranks.py")
DEADLINE_S = 150.0
LAUNCH = ("torchrun", "--standalone", "--nproc-per-node", "2", SCRIPT)
ANSWER_S = 60.0

#: Trains until it is told "end" on its input; "hold" stops it inside of an iteration, with the
#: turn, until "go"; "here" asks for its step.
NEIGHBOUR = """
import hashlib, select, torch
torch.set_num_threads(1)
torch.manual_seed(5)
words = open(0, "rb", buffering=0)  # reads no more than a line
model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
step = 0
while True:
    optimizer.zero_grad()
    loss = model(torch.randn(1024, 64)).pow(2).mean()
    if select.select([words], [], [], 0)[0]:
        word = words.readline().decode().strip()
        if word == "end":
            break
        print(word, step, flush=True)
        if word == "hold":
            words.readline()
    loss.backward()
    optimizer.step()
    step += 1
    if step % 10 == 0:
        print("step", step, flush=True)
    if step % 200 == 0:
        bytes_of = [tensor.numpy().tobytes() for tensor in model.state_dict().values()]
        print("bits", step, hashlib.sha256(b"".join(bytes_of)).hexdigest(), flush=True)
"""


def cases(brief: list[Any], more: list[Any]) -> list[Any]:
    """Parameters of a test; half a minute each, so `more` only with TIDE_TEST_GANGS=all."""
    return brief + more if os.environ.get("TIDE_TEST_GANGS") == "all" else brief


class Neighbour:
    """The plain job."""

    def __init__(self, job: subprocess.Popen[str]) -> None:
        self.job = job
        self.bits: dict[int, str] = {}  # digests by step

    def tell(self, word: str) -> None:
        assert self.job.stdin is not None
        self.job.stdin.write(f"{word}\n")
        self.job.stdin.flush()

    def until(self, word: str, least: int = 0) -> int:
        """The number in the first line of that word with at least so much."""
        end = time.monotonic() + DEADLINE_S
        assert self.job.stdout is not None
        for line in self.job.stdout:
            words = line.split()
            if words[0] == "bits":
                self.bits[int(words[1])] = words[2]
            if words[0] == word and int(words[1]) >= least:
                return int(words[1])
            assert time.monotonic() < end
        raise AssertionError("the neighbour has ended")

    def hold(self) -> None:
        """It has the turn, and keeps it."""
        self.tell("hold")
        self.until("hold")

    def let_go(self) -> None:
        """Goes on where it was held, and makes steps."""
        self.tell("go")
        self.trains()

    def trains(self) -> None:
        """Makes steps from now on."""
        self.tell("here")
        self.until("step", self.until("here") + 30)

    def ends(self) -> None:
        self.tell("end")
        _, errors = self.job.communicate(timeout=DEADLINE_S)
        assert self.job.returncode == 0, errors


@dataclass(frozen=True)
class Machine:
    """A daemon and a device of their own."""

    folder: pathlib.Path
    environ: dict[str, str]

    def start(self, name: str, *options: str, tide: bool = True, **env: str) -> Any:
        """A job of two ranks of torchrun, in a session of its own as under a terminal."""
        command = [*LAUNCH, "--out", str(self.folder / name), *options]
        return self.run(name, command, tide=tide, **env)

    def run(
        self, name: str, command: list[str], *options: str, tide: bool = True, **env: str
    ) -> Any:
        """A job, with options of `tide run`."""
        words = [*processes.TIDE, "run", "--name", name, *options, "--"] if tide else []
        environ = {**self.environ, **env}
        if not tide:
            environ["TIDE_DISABLE"] = "1"
        return subprocess.Popen(
            [*words, *command],
            env=environ,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @contextlib.contextmanager
    def neighbour(self, *options: str, tide: bool = True) -> Iterator[Neighbour]:
        job = self.run("plain", [sys.executable, "-c", NEIGHBOUR], *options, tide=tide)
        try:
            yield Neighbour(job)
        finally:
            kill_group(job)

    def said(self, name: str) -> list[dict[str, Any]]:
        return [json.loads((self.folder / f"{name}.{r}.json").read_text()) for r in range(2)]

    def digest(self, name: str) -> set[str]:
        return {rank["digest"] for rank in self.said(name)}

    def tide(self, *words: str, code: int = 0) -> dict[str, Any]:
        ended = processes.tide([*words, "--json"], self.environ, self.folder)
        assert ended.returncode == code, ended.stdout + ended.stderr
        answer: dict[str, Any] = json.loads(ended.stdout)
        return answer

    def records(self) -> dict[str, dict[str, Any]]:
        """The jobs by their names."""
        answer = processes.ask(self.environ, "ps") or {"jobs": []}
        return {record["name"]: record for record in answer["jobs"]}

    def until(self, condition: Callable[[dict[str, dict[str, Any]]], bool]) -> None:
        """Asks for the jobs again until they are as they should be."""
        processes.until(lambda: condition(self.records()), ANSWER_S, self.records)

    def parked(self, name: str) -> None:
        """Until one process waits for the turn, and the other for that one."""

        def reasons() -> list[str]:
            asked = (processes.ask(self.environ, "explain", job=f"{name}[{r}]") for r in (0, 1))
            return sorted(str(answer and answer["reason"]) for answer in asked)

        wanted = ["waiting_for_gang", "waiting_for_turn"]
        processes.until(lambda: reasons() == wanted, ANSWER_S, lambda: (reasons(), self.records()))

    def reason(self, name: str) -> str:
        """Why a job does what it does, in a word."""
        return str(self.tide("explain", name)["reason"])

    def hold(self, name: str) -> None:
        """The job of ranks stops in its turn, inside of an iteration of rank 0."""
        os.mkfifo(self.folder / f"{name}.hold")
        self.until(lambda found: found[f"{name}[0]"]["state"] == "running" and self.stands(name))

    def stands(self, name: str) -> bool:
        return (self.folder / f"{name}.held").exists()

    def let_go(self, name: str) -> None:
        """The job of ranks goes on."""
        pipe = self.folder / f"{name}.hold"
        go = os.open(pipe, os.O_WRONLY)
        pipe.unlink()
        os.close(go)

    def nothing_is_held(self) -> None:
        """Once all jobs have ended the device has no bytes, in no slot and in no scratch."""

        def used() -> int:
            answer = processes.ask(self.environ, "status")
            return -1 if answer is None else int(answer["used"])

        processes.until(lambda: used() == 0, ANSWER_S, lambda: self.tide("top", "--once"))


@contextlib.contextmanager
def machine_of(**variables: str) -> Iterator[Machine]:
    """A machine in a folder of its own; its daemon ends with it."""
    with tempfile.TemporaryDirectory(prefix="tide-gangs-") as path:
        folder = pathlib.Path(path)
        environ = processes.environment(
            folder,
            **{
                "TIDE_CAPACITY": "4GiB",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": processes.LEAN,
                "TIDE_LANE_GRACE_MS": "600000",  # nobody leaves a neighbour behind that is held
                **variables,
            },
        )
        with contextlib.ExitStack() as stack:
            stack.callback(processes.tide, ["shutdown"], environ, folder)
            yield Machine(folder, environ)


def ended(job: Any) -> None:
    _, errors = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0, errors


def await_step(job: Any, rank: int, step: int) -> int:
    """Reads the job's output until a rank has made that step; returns the rank's pid."""
    end = time.monotonic() + DEADLINE_S
    for line in job.stdout:
        words = line.split()
        if words[:2] == ["step", str(rank)] and int(words[3]) >= step:
            return int(words[2])
        assert time.monotonic() < end
    raise AssertionError("the job ended before that step")


def pids_of(job: Any, step: int) -> list[int]:
    """Pids of both ranks, once each has made that step."""
    found: dict[int, int] = {}
    end = time.monotonic() + DEADLINE_S
    for line in job.stdout:
        words = line.split()
        if words[:1] == ["step"] and int(words[3]) >= step:
            found[int(words[1])] = int(words[2])
        if len(found) == 2:
            return [found[0], found[1]]
        assert time.monotonic() < end
    raise AssertionError("the job ended before that step")


def options_of(seed: int, steps: int) -> tuple[str, ...]:
    return "--seed", str(seed), "--steps", str(steps)


def kill_group(job: Any) -> None:
    """Nothing of the job is left, whatever became of it: torchrun's ranks are in other groups."""
    for pid in family(job.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    job.wait()


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            children = pathlib.Path(f"/proc/{one}/task/{one}/children").read_text()
            found += map(int, children.split())
    return found


@contextlib.contextmanager
def elastic_beside(machine: Machine, neighbour: Neighbour) -> Iterator[Any]:
    """An elastic job of two processes that trains slowly until the test is over, with its bits."""
    pytest.importorskip("sklearn")
    alone, moved, pipe = (machine.folder / name for name in ("alone.json", "moved.json", "go"))
    os.mkfifo(pipe)
    command = [sys.executable, PACED, "-", "--epochs", "2", "--out", str(alone)]
    ended(machine.run("alone", command, tide=False))
    command = [sys.executable, PACED, str(pipe), "0.02", "--epochs", "2", "--out", str(moved)]
    neighbour.until("step", 10)
    job = machine.run("digits", command, "--processes", "1:2")
    try:
        await_elastic_step(job, 4)
        machine.tide("resize", "digits", "2", "--timeout", "200")
        yield job
        go = os.open(pipe, os.O_RDWR)
        os.write(go, b"go")
        ended(job)
        os.close(go)
    finally:
        kill_group(job)
    assert json.loads(moved.read_text()) == json.loads(alone.read_text())
    neighbour.ends()
    machine.nothing_is_held()
