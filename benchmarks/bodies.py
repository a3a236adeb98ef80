"""What children of benchmarks run: generators that a `workers.Worker` resumes."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Iterator
from typing import Any

# mallopt's numbers in malloc.h; the values keep every block of a step in the heap between steps
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
HEAP_BYTES_KEPT = 1 << 30


def tune_glibc() -> None:
    """What GLIBC_TUNABLES would set: large blocks from the heap, and the heap is not given back."""
    libc = ctypes.CDLL(None)
    for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        if libc.mallopt(parameter, HEAP_BYTES_KEPT) != 1:
            raise OSError(f"mallopt({parameter}, {HEAP_BYTES_KEPT}) was refused")
    libc.mallopt(M_TOP_PAD, 64 << 20)


def prepare(arm: str, threads: int) -> Any:
    """Makes the process one of `arm` ("plain", "tuned", "tide"); returns the package for tide."""
    import torch

    if arm == "tuned":
        tune_glibc()
    torch.set_num_threads(threads)
    if arm != "tide":
        return None
    import torchtide

    torchtide.runtime.start()
    return torchtide


def training(arm: str, model: str, threads: int = 1, **sizes: int) -> Iterator[Any]:
    """Each call trains `request` iterations; yields wall and CPU seconds of one, and the loss."""
    package = prepare(arm, threads)
    from benchmarks import models

    job = models.build(model, **sizes)
    batches = iter(package.iterations(job.batches)) if package else job.batches
    count = yield "ready"
    while True:
        begin, begin_processor = time.perf_counter(), time.process_time()
        for _ in range(count):
            loss = job.step(next(batches))
        wall = (time.perf_counter() - begin) / count
        count = yield wall, (time.process_time() - begin_processor) / count, loss


def importing() -> Iterator[Any]:
    """Seconds that `import torchtide` and starting the runtime take in a process that has torch."""
    begin = time.perf_counter()
    import torchtide

    imported = time.perf_counter()
    torchtide.runtime.start()
    yield imported - begin, time.perf_counter() - imported


def gate(iterations: int) -> Iterator[Any]:
    """Each call runs an empty loop with and without boundaries; yields seconds of an iteration."""
    import torchtide

    torchtide.runtime.start()
    for _ in torchtide.iterations(range(10)):
        pass  # the first iterations learn
    yield "ready"
    while True:
        begin = time.perf_counter()
        for _ in torchtide.iterations(range(iterations)):
            pass
        ours = time.perf_counter() - begin
        begin = time.perf_counter()
        for _ in range(iterations):
            pass
        plain = time.perf_counter() - begin
        yield ours / iterations, plain / iterations


def allocating(arm: str, calls: int) -> Iterator[Any]:
    """Each call makes and frees tensors of `request` bytes; yields seconds of one.

    The fastest of ten chunks counts: a neighbour on the other thread of the core doubles the rest.
    """
    prepare(arm, 1)
    import torch

    size = yield "ready"
    while True:
        gc.disable()
        chunks = []
        for _ in range(10):
            begin = time.perf_counter()
            for _ in range(calls // 10):
                torch.empty(size, dtype=torch.uint8)
            chunks.append((time.perf_counter() - begin) / (calls // 10))
        gc.enable()
        size = yield min(chunks)
