"""Throughput of a job under 90, 70 and 50 % of its footprint, and what a change of budget costs."""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import sys
import tempfile
from typing import Any

from benchmarks import bodies, estimates
from benchmarks.figure import Figure
from benchmarks.harness import Deadline
from benchmarks.raw_copy import RawFile
from benchmarks.workers import Worker, WorkerError, tide_environment

GIB = 1 << 30
PAGE = 2 << 20
THREADS = len(os.sched_getaffinity(0))
PERCENTS = (90, 70, 50)
# 77 million parameters P in eight layers: the footprint is 4 P (two moments, and gradients as
# scratch) beside the interpreter. 1024 rows, as a batch of a small language model has tokens.
SIZES = {"width": 3072, "depth": 8, "batch": 1024}
SETTLE_STEPS = 1
NO_LIMIT = 0


class Rounds:
    """What the rounds of one run have measured."""

    def __init__(self) -> None:
        """Empty."""
        self.full: list[float] = []
        self.steps: dict[int, list[float]] = {percent: [] for percent in PERCENTS}
        self.moved: dict[int, list[float]] = {percent: [] for percent in PERCENTS}
        self.shrink: list[float] = []
        self.grow: list[float] = []
        self.conflicts: dict[int, str] = {}


def ms_per_gib(answer: dict[str, Any]) -> float | None:
    """What a change of the budget cost; None when it moved less than a page."""
    if answer["moved_bytes"] < PAGE:
        return None
    return float(answer["took_ms"] / (answer["moved_bytes"] / GIB))


def one_round(worker: Worker, footprint: int, rounds: Rounds, steps: int) -> None:
    """Full budget before each smaller one, so that each ratio has its own baseline beside it."""
    for percent in PERCENTS:
        full = worker.call({"limit": NO_LIMIT, "settle": SETTLE_STEPS, "steps": steps})
        if (cost := ms_per_gib(full["answer"])) is not None:
            rounds.grow.append(cost)
        limit = footprint * percent // 100
        small = worker.call({"limit": limit, "settle": SETTLE_STEPS, "steps": steps})
        if "conflict" in small:
            rounds.conflicts[percent] = small["conflict"]
            continue
        if (cost := ms_per_gib(small["answer"])) is not None:
            rounds.shrink.append(cost)
        base = statistics.median(full["step_s"])
        rounds.full.append(base)
        rounds.steps[percent].append(base / statistics.median(small["step_s"]))
        rounds.moved[percent].append(small["moved_bytes"] / steps)


def store(figure: Figure, rounds: Rounds, disk_bytes_per_s: float) -> None:
    """Throughputs over full, the bound of the disk, the cost of a change."""
    for percent in PERCENTS:
        key = f"throughput_at_{percent}"
        if percent in rounds.conflicts:
            figure.missing(key, rounds.conflicts[percent])
        elif rounds.steps[percent]:
            figure.put(key, estimates.median(rounds.steps[percent]))
            figure.values[f"moved_gib_per_step_at_{percent}"] = (
                statistics.median(rounds.moved[percent]) / GIB
            )
    full_s = statistics.median(rounds.full) if rounds.full else None
    figure.baselines["step_s_full"] = full_s
    figure.baselines["disk_gib_per_s"] = disk_bytes_per_s / GIB
    if rounds.steps[50] and full_s:
        moved = statistics.median(rounds.moved[50])
        bound = min(1.0, full_s / (moved / disk_bytes_per_s)) if moved else 1.0
        figure.values["over_bound_at_50"] = figure.values["throughput_at_50"] / bound
        figure.values["bound_at_50"] = bound
        if moved:
            figure.setting["compute_s_per_gib_moved"] = full_s / (moved / GIB)
    for name, costs in (("shrink", rounds.shrink), ("grow", rounds.grow)):
        if costs:
            figure.put(f"{name}_ms_per_gib", estimates.median(costs))


def measure(quick: bool) -> Figure:
    """Runs the figure; at most 170 s when quick."""
    deadline = Deadline(120 if quick else 1200)
    figure = Figure("scaling", setting={"model": "adam", "threads": THREADS} | SIZES)
    failures: list[str] = []
    rounds = Rounds()
    with tempfile.TemporaryDirectory() as name:
        environment = tide_environment(pathlib.Path(name))
        with Worker(bodies.limited, environment, model="adam", threads=THREADS, **SIZES) as worker:
            report = worker.first
            # Huge pages and cached scratch included: what the job holds when nobody asks for any.
            footprint = report["outside"] + report["committed"]
            figure.setting["footprint_gib"] = footprint / GIB
            figure.setting["smallest_limit_gib"] = report["smallest_limit"] / GIB
            while (len(rounds.full) < 5 * len(PERCENTS) or not quick) and deadline.left > 0:
                try:
                    one_round(worker, footprint, rounds, 1 if quick else 3)
                except WorkerError as error:
                    failures.append(str(error).strip())
                    break
                if len(rounds.conflicts) == len(PERCENTS):
                    break
        raw_file = RawFile(512 << 20)
        copies = [raw_file.copy() for _ in range(3)]
        raw_file.close()
    # A step at a budget moves bytes both ways.
    disk = statistics.median(2 / (1 / c.write_bytes_per_s + 1 / c.read_bytes_per_s) for c in copies)
    store(figure, rounds, disk)
    figure.values["oom_count"] = sum("OutOfMemory" in failure for failure in failures)
    figure.setting["failures"] = failures
    reason = failures[0].splitlines()[-1] if failures else "no round was finished within the time"
    keys = tuple(f"throughput_at_{percent}" for percent in PERCENTS)
    figure.require(("over_bound_at_50",), rounds.conflicts.get(50, reason))
    figure.require((*keys, "shrink_ms_per_gib", "grow_ms_per_gib"), reason)
    kernel_reclaim(figure, footprint, figure.baselines["step_s_full"], quick)
    return figure


def kernel_reclaim(figure: Figure, footprint: int, full_s: float | None, quick: bool) -> None:
    """The same limits as cgroup limits without us; a kernel without swap kills the job."""
    from torchtide.demo import confine

    for percent in PERCENTS if not quick else PERCENTS[-1:]:
        key = f"same_by_kernel_reclaim_{percent}"
        arguments = ["adam", str(THREADS), "2", json.dumps(SIZES)]
        argv = [sys.executable, "-m", "benchmarks.plain_job", *arguments]
        with tempfile.TemporaryDirectory() as name:
            log = pathlib.Path(name) / "log"
            command = confine.Command("plain", argv, log)
            report = confine.run("reclaim", [command], footprint * percent // 100)
            outcome = report.outcomes["plain"]
            if outcome.finished and full_s:
                figure.values[key] = full_s / statistics.median(json.loads(outcome.last_line))
            else:
                swap = len(pathlib.Path("/proc/swaps").read_text(encoding="utf-8").splitlines()) > 1
                where = f"{report.kind}, {'with' if swap else 'without'} swap"
                figure.missing(key, f"plain job at {percent} %: {outcome.sentence()} ({where})")
    reason = "left out by --quick; the full run has it"
    figure.require(tuple(f"same_by_kernel_reclaim_{percent}" for percent in PERCENTS), reason)
