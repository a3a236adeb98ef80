"""The baseline of a killed process: DDP with a checkpoint under torchrun, which starts all again.

As a module it is the script that torchrun starts; `gap` runs it once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.figure import ROOT
from benchmarks.harness import Deadline

RANKS = 2
SAVED_STEP = 3  # the checkpoint that the killed job goes on from
STEPS_MAX = 2000  # ends the job if nobody kills it
END_SECONDS_MAX = 40.0


def train(folder: pathlib.Path, workers: int, megabytes: int) -> None:
    """Trains, saves once, and writes a line a step; a restarted job ends after its first step."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from benchmarks import elastic_bodies as bodies

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, restart = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    inner, optimizer = bodies.make(megabytes, True)
    saved, step = folder / "checkpoint.pt", 0
    if saved.exists():
        state = torch.load(saved)
        inner.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    model = DistributedDataParallel(inner, gradient_as_bucket_view=True)
    inputs = bodies.samples(inner)
    news = os.open(folder / "news", os.O_WRONLY)
    while step < STEPS_MAX:
        bodies.ddp_step(model, optimizer, inputs, step, -(-workers // RANKS))
        step += 1
        line = {"rank": rank, "pid": os.getpid(), "restart": restart, "step": step}
        os.write(news, json.dumps(line | {"end": time.monotonic()}).encode() + b"\n")
        if restart > 0:
            break
        if step == SAVED_STEP and rank == 0:
            state = {"model": inner.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"step": step}, folder / "partial.pt")
            (folder / "partial.pt").replace(saved)
    dist.destroy_process_group()


def news_of(
    path: pathlib.Path, agent: subprocess.Popen[bytes], seconds: float
) -> Iterator[dict[str, Any]]:
    """The lines that the ranks write, as they come.

    Raises:
        RuntimeError: torchrun has ended, or the time is up.
    """
    # both ends open here: the pipe outlives the ranks that write to it
    pipe, gone = os.open(path, os.O_RDWR | os.O_NONBLOCK), os.pidfd_open(agent.pid)
    rest, deadline = b"", Deadline(seconds)
    try:
        while True:
            ready, _, _ = select.select([pipe, gone], [], [], max(deadline.left, 0))
            if pipe not in ready:
                raise RuntimeError(
                    "torchrun ended before a step after the restart"
                    if ready
                    else f"no step after the restart within {seconds:.0f} s of the start"
                )
            *lines, rest = (rest + os.read(pipe, 65536)).split(b"\n")
            yield from map(json.loads, lines)
    finally:
        os.close(pipe)
        os.close(gone)


def gap(folder: pathlib.Path, workers: int, megabytes: int, seconds: float) -> float:
    """Seconds from SIGKILL of one of two ranks to the end of the first step after the restart.

    Args:
        folder: empty; for the checkpoint and what torchrun prints.
        workers: batches a step, shared out among the ranks.
        megabytes: of parameters; AdamW's state has twice as many.
        seconds: that the whole may take, start included.

    Raises:
        RuntimeError: there was no such step; its text has the first traceback of torchrun's output.
    """
    os.mkfifo(folder / "news")
    command = f"-m torch.distributed.run --standalone --nproc_per_node {RANKS} --max-restarts 3"
    script = ["-m", "benchmarks.torchrun", str(folder), str(workers), str(megabytes)]
    killed, pids = 0.0, set()
    with (folder / "log").open("wb") as log:
        agent = subprocess.Popen(
            [sys.executable, *command.split(), *script], cwd=ROOT, stdout=log, stderr=log
        )
    try:
        for line in news_of(folder / "news", agent, seconds):
            pids.add(line["pid"])
            if line["restart"] > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    agent.wait(END_SECONDS_MAX)
                return float(line["end"]) - killed
            if line["rank"] == 1 and line["step"] > SAVED_STEP + 1 and not killed:
                killed = time.monotonic()
                os.kill(line["pid"], signal.SIGKILL)
        raise AssertionError("news never end")
    except RuntimeError as error:
        text = (folder / "log").read_text(errors="replace")
        start = max(text.find("Traceback"), 0)
        raise RuntimeError(f"{error}; torchrun said:\n{text[start : start + 2000]}") from error
    finally:
        end(agent, pids)


def end(agent: subprocess.Popen[bytes], pids: set[int]) -> None:
    """Ends what still runs: torchrun ends its ranks when it is asked to stop."""
    if agent.poll() is not None:
        return
    agent.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        agent.wait(END_SECONDS_MAX)
    if agent.poll() is None:
        agent.kill()
        agent.wait()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("workers", type=int)
    parser.add_argument("megabytes", type=int)
    given = parser.parse_args()
    train(given.folder, given.workers, given.megabytes)
