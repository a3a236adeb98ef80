"""Benchmarks of several jobs on one GPU, each against plain sharing in the same run.

`python -m torchtide.gpu_check.bench_jobs pair|trace [--small]` prints one JSON line. Times are in
seconds unless a name says otherwise. The protocols are those of published systems; the models are
the check's own, so figures compare within a run, not with the papers.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from torchtide.gpu_check import job, part

Answer = dict[str, Any]
_PATIENCE_S = 120  # for one answer of a job


@dataclasses.dataclass(frozen=True)
class Mode:
    """How jobs share the device: without us, or with an arrangement of ours."""

    name: str
    hooked: bool = True
    lane: int = 0  # -1: they compute at the same time
    policy: str = "fair"
    law: str = "aimd"  # of the pace of opportunistic jobs


PLAIN = Mode("plain", hooked=False)
PACE = Mode("pace", lane=-1)
TURNS = Mode("turns", policy="priority", law="off")


class Job:
    """A process that trains or answers requests when it is told to.

    It is forked from this one, which has imported PyTorch and never starts CUDA.
    """

    def __init__(self, name: str, mode: Mode, priority: str, folder: str, *, small: bool) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, name, mode, priority, folder, small), daemon=True
        )
        self._process.start()
        theirs.close()

    def tell(self, **order: Any) -> None:
        """Gives it an order; `heard` has the answer."""
        self._pipe.send(order)

    def heard(self) -> Answer:
        """Its next answer.

        Raises:
            RuntimeError: it failed, with its words, or said nothing for long.
        """
        if not self._pipe.poll(_PATIENCE_S):
            raise RuntimeError(f"a job said nothing for {_PATIENCE_S} s")
        try:
            answer: Answer = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("a job ended before its answer") from error
        if "trouble" in answer:
            raise RuntimeError(answer["trouble"])
        return answer

    def ask(self, **order: Any) -> Answer:
        """An order and its answer."""
        self.tell(**order)
        return self.heard()

    def end(self) -> None:
        """Kills it: a benchmark leaves nothing on the device."""
        self._process.kill()
        self._process.join()


def _serve(
    pipe: Connection, name: str, mode: Mode, priority: str, folder: str, small: bool
) -> None:
    os.environ |= {"TIDE_DAEMON": "off", "TIDE_RUNTIME_DIR": folder}
    os.environ |= {"TIDE_LANE_POLICY": mode.policy, "TIDE_PACE_LAW": mode.law}
    try:
        if mode.hooked:
            import torchtide

            torchtide.start(name=name, priority=priority, lane=mode.lane)
        worker = _Worker(mode, small=small)
        pipe.send({"ready": True})
        while True:
            pipe.send(worker.obey(**pipe.recv()))
    except EOFError:
        pass
    except Exception as error:  # told to the one who measures
        pipe.send({"trouble": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


class _Worker:
    """In the job's process: a model, and what is done with it."""

    def __init__(self, mode: Mode, *, small: bool) -> None:
        self._hooked = mode.hooked
        torch.manual_seed(1)
        torch.backends.cuda.enable_cudnn_sdp(False)  # as the other benchmarks; the phantom has none
        self._model = job.model_of(small=small).cuda()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3)
        self._batch = torch.randn(8, 16 if small else 512, 64 if small else 1024).cuda()
        # As iterations that end: after a bare step the last one is open, and with it the turn kept.
        self.obey("train", steps=3)

    def _train(self) -> None:
        job.train_step(self._model, self._optimizer, self._batch)

    def _infer(self) -> None:
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            self._model(self._batch)
        torch.cuda.synchronize()

    def obey(
        self,
        what: str,
        seconds: float | None = None,
        steps: int | None = None,
        burst: int = 0,
        idle_s: float = 0,
    ) -> Answer:
        """Steps for so long or so many; after each burst nothing comes for a while."""
        arrived = [0.0]
        begin = time.perf_counter()

        def arrivals() -> Iterator[None]:
            while seconds is None or time.perf_counter() - begin < seconds:
                arrived[0] = time.perf_counter()
                for _ in range(burst or 1):
                    yield
                time.sleep(idle_s)

        source: Any = range(steps) if steps is not None else arrivals()
        if self._hooked:
            import torchtide

            source = torchtide.iterations(source)
        do = self._train if what == "train" else self._infer
        latencies = []
        for _ in source:
            do()
            latencies.append(time.perf_counter() - arrived[0])
        took = time.perf_counter() - begin
        answer: Answer = {"steps": len(latencies), "per_s": len(latencies) / took, "took": took}
        if what == "infer":
            answer["latency_ms"] = _percentiles([1e3 * one for one in latencies])
        return answer


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"p50": 0.5, "p99": 0.99}
    return {name: round(ordered[int(q * (len(ordered) - 1))], 3) for name, q in at.items()}


def _together(jobs: list[Job], orders: list[Answer]) -> list[Answer]:
    for one, order in zip(jobs, orders, strict=True):
        one.tell(**order)
    return [one.heard() for one in jobs]


def pair(*, small: bool) -> Answer:
    """A protected job beside an opportunistic one that would take all of the device.

    Twice: the protected one trains in bursts with waits for its data between (the protocol of TGS
    and AntMan), and answers requests of a batch of 8 while the other trains (that of PipeSwitch).
    `loss` is what the protected one loses of its speed alone, `harvest` what the other one has of
    its own.
    """
    seconds = 0.6 if small else 6.0
    bursts = {"what": "train", "seconds": seconds, "burst": 8, "idle_s": 0.15}
    requests = {"what": "infer", "seconds": seconds, "burst": 1, "idle_s": 0.05}
    all_the_time = {"what": "train", "seconds": seconds}
    answer: Answer = {"bursts": {}, "requests": {}}
    alone: dict[str, Answer] = {}
    for mode in (PLAIN, PACE, TURNS):
        with tempfile.TemporaryDirectory(prefix="tide-pair-") as folder:
            jobs = [
                Job(name, mode, priority, folder, small=small)
                for name, priority in (("protected", "guaranteed"), ("other", "opportunistic"))
            ]
            try:
                for one in jobs:
                    one.heard()
                if not alone:
                    alone["bursts"] = jobs[0].ask(**bursts)
                    alone["requests"] = jobs[0].ask(**requests)
                    alone["other"] = jobs[1].ask(**all_the_time)
                for name, order in (("bursts", bursts), ("requests", requests)):
                    if mode.hooked:  # pace knows a job's usual speed from its time alone
                        jobs[0].ask(**order | {"seconds": seconds / 4})
                    own, other = _together(jobs, [order, all_the_time])
                    figures = {
                        "loss": round(1 - own["per_s"] / alone[name]["per_s"], 4),
                        "harvest": round(other["per_s"] / alone["other"]["per_s"], 4),
                    }
                    if "latency_ms" in own:
                        figures["latency_ms"] = own["latency_ms"]
                    answer[name][mode.name] = figures
            finally:
                for one in jobs:
                    one.end()
    answer["requests"]["alone_latency_ms"] = alone["requests"]["latency_ms"]
    return {"verdict": "pass", **answer}


def trace(*, small: bool) -> Answer:
    """Jobs of very different lengths that arrive one after the other (the protocol of Salus).

    `fifo` runs one at a time as most clusters do, `plain` all at once without us, the others in
    turns under our policies. Figures are mean times from arrival to end, and their ratio to fifo.
    """
    unit, gap_s = (4, 0.02) if small else (20, 0.3)
    lengths = [unit * count for count in ((6, 1) if small else (24, 2, 1, 8, 1, 4))]
    modes = (PLAIN, Mode("fair"), Mode("srtf", policy="srtf"))
    answer: Answer = {"steps": lengths, "gap_s": gap_s, "mean_s": {}}
    for mode in modes:
        with tempfile.TemporaryDirectory(prefix="tide-trace-") as folder:
            jobs: list[Job] = []
            try:
                jobs += [
                    Job(f"job{i}", mode, "normal", folder, small=small) for i in range(len(lengths))
                ]
                for one in jobs:
                    one.heard()
                if mode is PLAIN:
                    answer["mean_s"]["fifo"] = _one_by_one(jobs, lengths, gap_s)
                answer["mean_s"][mode.name] = _as_they_come(jobs, lengths, gap_s)
            finally:
                for one in jobs:
                    one.end()
    fifo = answer["mean_s"]["fifo"]
    answer["fifo_over"] = {name: round(fifo / mean, 3) for name, mean in answer["mean_s"].items()}
    return {"verdict": "pass", **answer}


def _one_by_one(jobs: list[Job], lengths: list[int], gap_s: float) -> float:
    begin, took = time.perf_counter(), []
    for i, (one, steps) in enumerate(zip(jobs, lengths, strict=True)):
        time.sleep(max(0.0, i * gap_s - (time.perf_counter() - begin)))
        one.ask(what="train", steps=steps)
        took.append(time.perf_counter() - begin - i * gap_s)
    return round(statistics.mean(took), 4)


def _as_they_come(jobs: list[Job], lengths: list[int], gap_s: float) -> float:
    for one, steps in zip(jobs, lengths, strict=True):
        one.tell(what="train", steps=steps)
        time.sleep(gap_s)
    # Each one measures its own time, from the order to the end of its last step.
    took: list[float] = [one.heard()["took"] for one in jobs]
    return round(statistics.mean(took), 4)


if __name__ == "__main__":
    sys.exit(part.main("bench_jobs", {"pair": pair, "trace": trace}))
