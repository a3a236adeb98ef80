"""The baseline of a job that changes its size as it runs: replicas of torchft, DDP over Gloo.

As a module it is the script of one replica; `gaps` runs three of them and kills one. torchft is not
installed with torchtide; `TIDE_BENCH_TORCHFT` names an interpreter that has it.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import select
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.figure import ROOT
from benchmarks.harness import Deadline

STEPS_MAX = 5000
STEADY_STEPS = 6  # of one set of replicas, before the next thing happens


def python() -> str:
    """The interpreter that the replicas run in."""
    return os.environ.get("TIDE_BENCH_TORCHFT", sys.executable)


def missing() -> str:
    """Why torchft cannot be measured here; empty: it can."""
    check = "import torchft, torchft.coordination"
    result = subprocess.run([python(), "-c", check], capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return ""
    said = (result.stderr.strip().splitlines() or ["it cannot be imported"])[-1]
    return f"{said}; TIDE_BENCH_TORCHFT names an interpreter that has torchft and torch"


def train(address: str, name: str, megabytes: int, news: str) -> None:
    """Trains until it is killed, and writes a line a step."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist
    from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo

    from benchmarks import elastic_bodies as bodies

    torch.set_num_threads(1)
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    inner, plain = bodies.make(megabytes, True)

    def load(state: Any) -> None:
        inner.load_state_dict(state["model"])
        plain.load_state_dict(state["optimizer"])

    def save() -> Any:
        return {"model": inner.state_dict(), "optimizer": plain.state_dict()}

    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=5)),
        load_state_dict=load,
        state_dict=save,
        min_replica_size=1,
        replica_id=name,
        lighthouse_addr=address,
        store_addr="localhost",
        store_port=store.port,
        rank=0,
        world_size=1,
        timeout=timedelta(seconds=10),
    )
    model, optimizer = DistributedDataParallel(manager, inner), Optimizer(manager, plain)
    inputs = bodies.samples(inner)
    out = os.open(news, os.O_WRONLY)
    for step in range(STEPS_MAX):
        x = inputs[torch.arange(bodies.BATCH) + step * bodies.BATCH % 4000]
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        line = {"name": name, "size": manager.num_participants(), "step": manager.current_step()}
        os.write(out, json.dumps(line | {"end": time.monotonic()}).encode() + b"\n")


def serve(ready: str) -> None:
    """The lighthouse: tells its address, and ends with its standard input."""
    from torchft.coordination import LighthouseServer

    server = LighthouseServer(bind="[::]:0", min_replicas=1, join_timeout_ms=1000)
    pathlib.Path(ready).write_text(server.address())
    sys.stdin.read()
    server.shutdown()


class Replicas:
    """The lighthouse and the replicas of one job."""

    def __init__(self, folder: pathlib.Path, megabytes: int, seconds: float) -> None:
        """Starts the lighthouse.

        Raises:
            RuntimeError: it did not come, or a replica ended, or the time is up; so do all methods.
        """
        self._folder, self._megabytes, self._deadline = folder, megabytes, Deadline(seconds)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        os.mkfifo(folder / "news")
        os.mkfifo(folder / "ready")
        self._pipe = os.open(folder / "news", os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""
        ready = os.open(folder / "ready", os.O_RDWR | os.O_NONBLOCK)
        self._lighthouse = self._run("lighthouse", "serve", str(folder / "ready"))
        try:
            self._address = self._read(ready, self._lighthouse).decode()
        finally:
            os.close(ready)

    def start(self, name: str) -> None:
        """One more replica."""
        self._processes[name] = self._run(
            name, "train", self._address, name, str(self._megabytes), str(self._folder / "news")
        )

    def kill(self, name: str) -> float:
        """SIGKILL; when it was."""
        killed = time.monotonic()
        self._processes.pop(name).send_signal(signal.SIGKILL)
        return killed

    def await_size(self, size: int) -> list[float]:
        """Ends of the first replica's steps, until so many have trained six steps together."""
        ends: list[float] = []
        steady = 0
        while steady < STEADY_STEPS:
            for line in self._lines():
                if line["name"] == "a":
                    ends.append(line["end"])
                    steady = steady + 1 if line["size"] == size else 0
        return ends

    def close(self) -> None:
        """Ends all."""
        for process in [*self._processes.values(), self._lighthouse]:
            process.kill()
            process.wait()
        os.close(self._pipe)

    def _lines(self) -> list[dict[str, Any]]:
        *lines, self._rest = (self._rest + self._read(self._pipe)).split(b"\n")
        return [json.loads(line) for line in lines]

    def _read(self, pipe: int, *others: subprocess.Popen[bytes]) -> bytes:
        """What a pipe has, as soon as it has something."""
        while not select.select([pipe], [], [], 0.1)[0]:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(
                        f"replica {name} ended with {process.returncode}: {self._said(name)}"
                    )
            if any(process.poll() is not None for process in others):
                raise RuntimeError(f"the lighthouse ended: {self._said('lighthouse')}")
            if self._deadline.left <= 0:
                raise RuntimeError("torchft was not there in time")
        return os.read(pipe, 65536)

    def _run(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [python(), "-m", "benchmarks.torchft", *words],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def _said(self, name: str) -> str:
        text = (self._folder / f"{name}.log").read_text(errors="replace").strip()
        return text.splitlines()[-1] if text else "it said nothing"


def gaps(folder: pathlib.Path, megabytes: int, seconds: float) -> tuple[float, float | str]:
    """What a third replica costs the first one, and what its death does.

    Args:
        folder: empty.
        megabytes: of parameters; AdamW's state has twice as many.
        seconds: that the whole may take.

    Returns:
        Seconds of the longest step while it joins, less a usual one; and from SIGKILL of it to the
        end of the first replica's first step of two again, or why there was none.

    Raises:
        RuntimeError: it did not get so far.
    """
    replicas = Replicas(folder, megabytes, seconds)
    try:
        replicas.start("a")
        replicas.start("b")
        before = replicas.await_size(2)[-STEADY_STEPS:]
        replicas.start("c")
        after = replicas.await_size(3)
        between = [b - a for a, b in itertools.pairwise([*before, *after])]
        usual = statistics.median([b - a for a, b in itertools.pairwise(after[-STEADY_STEPS:])])
        pause = max(between) - usual
        killed = replicas.kill("c")
        try:
            ends = replicas.await_size(2)
        except RuntimeError as error:
            return pause, str(error)
        return pause, ends[-STEADY_STEPS] - killed
    finally:
        replicas.close()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        train(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
