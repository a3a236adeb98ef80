"""The baseline without a runtime: save a checkpoint, kill, start again, load, first step."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.workers import Worker


@dataclasses.dataclass(frozen=True)
class Restart:
    """Seconds of each part and of the whole."""

    save: float
    kill: float
    start_to_first_step: float

    @property
    def total(self) -> float:
        """From the decision to the first step done."""
        return self.save + self.kill + self.start_to_first_step


def saving(model: str, path: str, threads: int, **sizes: int) -> Iterator[Any]:
    """Trains three iterations, then saves on call; yields the seconds of saving."""
    import torch

    from benchmarks import models

    torch.set_num_threads(threads)
    job = models.build(model, **sizes)
    for _ in range(3):
        job.step(next(job.batches))
    yield "ready"
    begin = time.perf_counter()
    state = {"model": job.model.state_dict(), "optimizer": job.optimizer.state_dict()}
    torch.save(state | {"random": torch.get_rng_state()}, path)
    yield time.perf_counter() - begin


def measure_restart(model: str, folder: pathlib.Path, threads: int = 1, **sizes: int) -> Restart:
    """Runs the whole once, with a cold interpreter as a user would start it."""
    path = folder / f"{model}.pt"
    worker = Worker(saving, model=model, path=str(path), threads=threads, **sizes)
    save = worker.call()
    begin = time.perf_counter()
    worker.kill()
    killed = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.restart", model, str(path), str(threads)]
    command.append(json.dumps(sizes))
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return Restart(save, killed - begin, time.perf_counter() - killed)


def resume(model: str, path: pathlib.Path, threads: int, sizes: dict[str, int]) -> float:
    """The new process: builds, loads, one iteration; returns its loss."""
    import torch

    from benchmarks import models

    torch.set_num_threads(threads)
    job = models.build(model, **sizes)
    state = torch.load(path)
    job.model.load_state_dict(state["model"])
    job.optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return job.step(next(job.batches))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("sizes", type=json.loads, nargs="?", default={})
    given = parser.parse_args()
    print(resume(given.model, given.path, given.threads, given.sizes))
