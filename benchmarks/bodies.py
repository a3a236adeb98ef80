"""What children of benchmarks run: generators that a `workers.Worker` resumes."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import itertools
import pathlib
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
    """Each call trains `request` iterations; yields wall and CPU seconds of one, and the loss.

    The call None yields the runtime's report.
    """
    package = prepare(arm, threads)
    from benchmarks import models

    job = models.build(model, **sizes)
    batches = iter(package.iterations(job.batches)) if package else job.batches
    count = yield "ready"
    while True:
        if count is None:
            count = yield package.report()
            continue
        begin, begin_processor = time.perf_counter(), time.process_time()
        for _ in range(count):
            loss = job.step(next(batches))
        wall = (time.perf_counter() - begin) / count
        count = yield wall, (time.process_time() - begin_processor) / count, loss


def importing() -> Iterator[Any]:
    """Seconds that `import torchtide` and starting the runtime take in a process that has torch."""
    begin = time.perf_counter()
    import torchtide

    start = torchtide.runtime.start  # the package is lazy: this loads the rest of it
    imported = time.perf_counter()
    start()
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


def digest(job: Any) -> str:
    """Hash of parameters and optimizer state, bit by bit."""
    sha = hashlib.blake2b(digest_size=16)
    tensors = list(job.model.state_dict().values())
    for state in job.optimizer.state.values():
        tensors += [value for value in state.values() if hasattr(value, "numpy")]
    for tensor in tensors:
        sha.update(tensor.detach().contiguous().view(-1).numpy())
    return sha.hexdigest()


def suspending(model: str, threads: int, **sizes: int) -> Iterator[Any]:
    """Suspends and resumes on each call; yields seconds, predictions and bytes moved."""
    package = prepare("tide", threads)
    from benchmarks import models

    job = models.build(model, **sizes)
    batches = iter(package.iterations(job.batches))
    for _ in range(3):
        job.step(next(batches))
    yield package.report()
    while True:
        job.step(next(batches))  # pages are touched between two suspensions, as in use
        package.runtime.GATE.end()
        before = digest(job)
        predicted_suspend = package.report()["predicted_suspend_seconds"]
        begin = time.perf_counter()
        package.pause()
        out = time.perf_counter()
        report = package.report()
        again = time.perf_counter()
        package.resume()
        back = time.perf_counter()
        after = package.report()
        yield {
            "suspend_s": out - begin,
            "resume_s": back - again,
            "predicted_suspend_s": predicted_suspend,
            "predicted_resume_s": report["predicted_resume_seconds"],
            "moved_bytes": report["demoted"],
            "left_bytes": after["demoted"],
            "same_bits": digest(job) == before,
        }


def moved_bytes() -> int:
    """What this process has read from and written to disks: streaming included."""
    counters = dict(
        line.split(": ") for line in pathlib.Path("/proc/self/io").read_text().splitlines()
    )
    return int(counters["read_bytes"]) + int(counters["write_bytes"])


def limited(model: str, threads: int, **sizes: int) -> Iterator[Any]:
    """Each call is {"limit": bytes, "steps": n}: moves the budget and trains; yields what it took.

    The first call carries nothing and yields the report of the job without a limit.
    """
    package = prepare("tide", threads)
    from benchmarks import models

    job = models.build(model, **sizes)
    batches = iter(package.iterations(job.batches))
    for _ in range(6):
        job.step(next(batches))
    request = yield package.report()
    while True:
        package.runtime.GATE.end()
        try:
            answer = package.set_limit(request["limit"])
        except package.errors.LimitConflict as conflict:
            request = yield {"conflict": str(conflict)}
            continue
        for _ in range(request["settle"]):
            job.step(next(batches))
        before = moved_bytes()
        seconds = []
        for _ in range(request["steps"]):
            begin = time.perf_counter()
            job.step(next(batches))
            seconds.append(time.perf_counter() - begin)
        after = package.report()
        request = yield {
            "answer": answer,
            "step_s": seconds,
            "moved_bytes": moved_bytes() - before,
            "demoted": after["demoted"],
            "committed": after["committed"],
        }


class Counted:
    """A loader of known length, as ordinary scripts have one."""

    def __init__(self, batches: Iterator[Any], count: int) -> None:
        """The first `count` of `batches`."""
        self._batches, self._count = batches, count

    def __len__(self) -> int:
        """Iterations of the job."""
        return self._count

    def __iter__(self) -> Iterator[Any]:
        """Once."""
        return itertools.islice(self._batches, self._count)


def short_job(iterations: int, **sizes: int) -> Iterator[Any]:
    """Builds a small job; the call runs all of it and yields when each iteration ended."""
    package = prepare("tide", 1)
    from benchmarks import models

    job = models.build("adam", **sizes)
    yield "ready"
    ends = []
    for batch in package.iterations(Counted(job.batches, iterations)):
        job.step(batch)
        ends.append(time.monotonic())
    package.runtime.GATE.leave()
    yield ends
