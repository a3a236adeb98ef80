"""What the two jobs of `benchmarks/pace.py` run: generators that a `workers.Worker` resumes."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from typing import Any

WIDTH, BATCH, LAYERS = 512, 256, 12


def _job(priority: str, threads: int) -> Any:
    """One iteration as a function: a perceptron with Adam."""
    import torch
    import torchtide

    torch.set_num_threads(threads)
    torchtide.runtime.start(name=priority, priority=priority, lane=-1)
    pairs = [(torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()) for _ in range(LAYERS)]
    model = torch.nn.Sequential(*(module for pair in pairs for module in pair))
    optimizer = torch.optim.Adam(model.parameters())
    batch = torch.randn(BATCH, WIDTH)

    def step() -> None:
        loss = (model(batch) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _processor_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def protected(threads: int, warm_up: int) -> Iterator[Any]:
    """A guaranteed job. Each call trains for so many seconds; yields the seconds of each step."""
    step = _job("guaranteed", threads)
    import torchtide

    for _ in range(warm_up):
        step()
    steps: Any = "ready"
    while True:
        torchtide.runtime.GATE.leave()  # who waits here is in no iteration
        seconds = yield steps
        steps = []
        last = time.monotonic()
        end = last + seconds
        while last < end:
            step()
            now = time.monotonic()
            steps.append(now - last)
            last = now


class _CutWatch:
    """A thread that notes when the pace of this job is lowered first."""

    def __init__(self) -> None:
        import torchtide

        self._report = torchtide.report
        self.pace_before = float(self._report()["pace"])
        self.cut: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            if float(self._report()["pace"]) < 0.9 * self.pace_before:
                self.cut = time.monotonic()
                return

    def close(self) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join()


def guest(threads: int, warm_up: int) -> Iterator[Any]:
    """An opportunistic job. A call is (seconds idle in an iteration, seconds of training).

    Yields the steps it made and its processor seconds while it trained; with idle seconds also its
    pace before it began to disturb, and after how many seconds it was lowered (None: it was not).
    """
    import torch
    import torchtide

    step = _job("opportunistic", threads)
    for _ in range(warm_up):
        step()
    tiny = torch.ones(8)
    answer: Any = "ready"
    while True:
        torchtide.runtime.GATE.leave()  # who waits here is in no iteration
        idle_s, train_s = yield answer
        watch = None
        if idle_s > 0:
            step()
            end = time.monotonic() + idle_s
            while time.monotonic() < end:
                tiny.add_(1)
                time.sleep(0.05)
            watch = _CutWatch()
        begin, processor_s = time.monotonic(), _processor_s()
        steps = 0
        while time.monotonic() < begin + train_s:
            step()
            steps += 1
        took = time.monotonic() - begin
        answer = {"rate": steps / took, "processor": (_processor_s() - processor_s) / took}
        if watch is not None:
            watch.close()
            reacted = watch.cut - begin if watch.cut is not None else None
            answer |= {"pace_before": watch.pace_before, "reaction_s": reacted}
