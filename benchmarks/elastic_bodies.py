"""What the processes of the elastic figure do: train elastically, or with DDP over Gloo."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks import models

STEPS_MAX = 100_000
BATCH = 16


def perceptron(megabytes: int) -> nn.Module:
    """Ten square layers that together have so many megabytes of parameters."""
    torch.manual_seed(0)
    width = int((megabytes * 1e6 / 4 / 10) ** 0.5)
    layers = [layer for _ in range(10) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers)


def samples(model: nn.Module) -> torch.Tensor:
    """Inputs for `perceptron`."""
    width = next(model.parameters()).shape[1]
    return torch.randn(4096, width, generator=torch.Generator().manual_seed(1))


def make(megabytes: int, adam: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimizer, the same everywhere."""
    model = perceptron(megabytes)
    if adam:
        return model, torch.optim.AdamW(model.parameters(), 1e-4)
    return model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)


def open_job(place: tuple[int, int] | None) -> None:
    """Makes this process a worker of the job whose descriptor another process holds."""
    if place is not None:
        descriptor = os.open(f"/proc/{place[0]}/fd/{place[1]}", os.O_RDWR)
        os.environ["TIDE_ELASTIC_FD"] = str(descriptor)


def elastic(
    place: tuple[int, int] | None, workers: int, megabytes: int, adam: bool = False
) -> Iterator[Any]:
    """Each request is a step; trains up to it and yields what happened on the way."""
    from torchtide.elastic.run import Run

    open_job(place)
    with Run(workers, (1, workers)) as run:
        model, optimizer = make(megabytes, adam)
        data = torch.utils.data.TensorDataset(samples(model))
        _, _, loader = run.prepare(model, optimizer, data, batch_size=BATCH, epochs=STEPS_MAX)
        until = yield "ready"
        begin, ends = time.monotonic(), []
        for (x,) in run.iterations(loader):
            run.backward(model(x).square().mean())
            if not run.step():
                continue
            ends.append((time.monotonic(), run.processes, run.step_index))
            if run.step_index >= until:
                digest = run.digest() if megabytes < 5 else ""
                until = yield {"seconds": time.monotonic() - begin, "ends": ends, "digest": digest}
                begin, ends = time.monotonic(), []


def elastic_gloo(rank: int, size: int, store: str, workers: int, megabytes: int) -> Iterator[Any]:
    """As `elastic`, with processes that torch.distributed connects."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    yield from elastic(None, workers, megabytes)


def ddp_step(
    model: Any, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, step: int, each: int
) -> None:
    """One step of DDP in which this rank accumulates `each` batches."""
    optimizer.zero_grad()
    for index in range(each):
        x = inputs[torch.arange(BATCH) + (step * each + index) * BATCH % 4000]
        with model.no_sync() if index + 1 < each else contextlib.nullcontext():
            (model(x).square().mean() / each).backward()
    optimizer.step()


def ddp(
    rank: int, size: int, store: str, workers: int, megabytes: int, tide: bool = False
) -> Iterator[Any]:
    """The same steps with DDP; each rank accumulates its share of the workers' batches."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    if tide:
        import torchtide

        torchtide.runtime.start()
    yield from ddp_steps(size, workers, megabytes)


def ddp_steps(size: int, workers: int, megabytes: int) -> Iterator[Any]:
    """As `ddp`, where the processes are connected."""
    from torch.nn.parallel import DistributedDataParallel

    inner, optimizer = make(megabytes, False)
    model = DistributedDataParallel(inner, gradient_as_bucket_view=True)
    x_all, each = samples(inner), -(-workers // size)
    step = 0
    until = yield "ready"
    while True:
        begin = time.monotonic()
        while step < until:
            ddp_step(model, optimizer, x_all, step, each)
            step += 1
        until = yield {"seconds": time.monotonic() - begin}


def contexts(steps: int) -> Iterator[Any]:
    """Seconds of a ResNet's steps with four logical workers, and those spent on their contexts."""
    from torchtide.elastic.run import Run

    spent = 0.0

    def timed(function: Any) -> Any:
        def measured(*arguments: Any) -> Any:
            nonlocal spent
            begin = time.perf_counter()
            result = function(*arguments)
            spent += time.perf_counter() - begin
            return result

        return measured

    with Run(4, (1, 4)) as run:
        torch.manual_seed(0)
        job = models.build("resnet")
        model = job.model
        images = torch.randn(256, 3, 32, 32)
        data = torch.utils.data.TensorDataset(images, torch.randint(0, 10, (256,)))
        _, _, loader = run.prepare(model, job.optimizer, data, batch_size=8, epochs=STEPS_MAX)
        manager = run._contexts
        for name in ("load", "load_first", "save"):
            setattr(manager, name, timed(getattr(manager, name)))
        yield "ready"
        begin = time.perf_counter()
        for x, y in run.iterations(loader):
            run.backward(nn.functional.cross_entropy(model(x), y))
            if run.step() and run.step_index % steps == 0:
                yield time.perf_counter() - begin, spent
                begin, spent = time.perf_counter(), 0.0


def peak(workers: int, megabytes: int) -> Iterator[Any]:
    """Peak resident bytes of three steps, without those there before, and of one gradient."""
    from torchtide.elastic.run import Run

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with Run(workers, (1, workers)) as run:
        model, optimizer = make(megabytes, False)
        data = torch.utils.data.TensorDataset(samples(model))
        _, _, loader = run.prepare(model, optimizer, data, batch_size=BATCH, epochs=STEPS_MAX)
        for (x,) in run.iterations(loader):
            run.backward(model(x).square().mean())
            if run.step() and run.step_index == 3:
                break
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield after - before, sum(p.nbytes for p in model.parameters())
