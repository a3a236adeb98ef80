"""Real jobs that do not fit together, under one capacity; turn policies on a mix of short jobs."""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import bodies, turn_mix
from benchmarks.figure import ROOT, Figure
from benchmarks.workers import Worker, fleet, tide_environment

KEYS = (
    "peak_over_sum",
    "peak_over_bound",
    "ledger_over_kernel",
    "makespan_over_serial",
    "jobs_failed_plain",
    "jobs_failed_tide",
    "bitwise_equal",
)
BASELINES = (
    "capacity_bytes",
    "sum_solo_peaks",
    "bound_bytes",
    "peak_kernel",
    "peak_kernel_plain",
    "makespan_serial_s",
    "makespan_tide_s",
    "handovers",
    "confined_by",
)
SHORT_SIZES = {"width": 1024, "batch": 64}


def four_jobs(figure: Figure, quick: bool) -> None:
    """The jobs of the quickstart: alone, as plain processes, under tide."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torchtide.demo.quickstart", "--json", "--fresh"]
        command += ["--out", folder, *(["--quick"] if quick else [])]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=1500
        )
    try:
        found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        said = (result.stderr or result.stdout).strip().splitlines()
        figure.require(KEYS, f"the quickstart ended early: {said[-1] if said else 'no output'}")
        return
    for key in KEYS:
        if found.get(key) is None:
            figure.missing(key, "the quickstart left it out: a part of it did not run")
        else:
            figure.values[key] = found[key]
    for key in BASELINES:
        figure.baselines[key] = found.get(key)
    figure.setting["jobs"] = [f"{job['name']} x{job['steps']}" for job in found["jobs"]]


def completion_s(policy: str, jobs: list[turn_mix.ShortJob], step_s: float) -> float:
    """Mean seconds from arrival to end under `policy`, all jobs on one lane."""
    with tempfile.TemporaryDirectory() as name:
        environment = tide_environment(pathlib.Path(name), TIDE_LANE_POLICY=policy)
        workers = [
            Worker(bodies.short_job, environment, iterations=job.iterations, **SHORT_SIZES)
            for job in jobs
        ]
        with fleet(*workers):
            begin = time.monotonic()
            arrivals = []
            for job, worker in zip(jobs, workers, strict=True):
                time.sleep(max(0.0, begin + job.arrival * step_s - time.monotonic()))
                arrivals.append(time.monotonic())
                worker.send()
            ends = [worker.receive()[-1] for worker in workers]
    return statistics.fmean(end - begin for begin, end in zip(arrivals, ends, strict=True))


def alone(rounds: int) -> tuple[float, float]:
    """Seconds of the first iteration of a short job that is alone, and of the others: medians."""
    firsts, laters = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            environment = tide_environment(pathlib.Path(name))
            with Worker(bodies.short_job, environment, iterations=40, **SHORT_SIZES) as worker:
                begin = time.monotonic()
                ends = worker.call()
        firsts.append(ends[0] - begin)
        laters.append((ends[-1] - ends[0]) / (len(ends) - 1))
    return statistics.median(firsts), statistics.median(laters)


def policies(figure: Figure, quick: bool) -> None:
    """First come first served against shortest remaining first, on the published mix.

    The ideal is that of turns that cost nothing, with the iterations of a job that is alone, of
    which the first is several times as long as the others.
    """
    jobs = turn_mix.mix()
    first_s, step_s = alone(3 if quick else 7)
    seconds: dict[str, list[float]] = {"fifo": [], "srtf": []}
    for _ in range(1 if quick else 5):
        for policy, measured in seconds.items():
            measured.append(completion_s(policy, jobs, step_s))
    ideal = turn_mix.ideal_ratio(jobs, first_s / step_s)
    ratio = statistics.median(seconds["fifo"]) / statistics.median(seconds["srtf"])
    figure.values["jct_fifo_over_srtf"] = ratio
    figure.values["ideal_ratio"] = ideal
    figure.values["ideal_ratio_equal_iterations"] = turn_mix.ideal_ratio(jobs)
    figure.values["jct_over_ideal"] = ratio / ideal
    figure.baselines["jct_fifo_s"] = statistics.median(seconds["fifo"])
    figure.baselines["jct_srtf_s"] = statistics.median(seconds["srtf"])
    figure.setting["mix_iterations"] = [job.iterations for job in jobs]
    figure.setting["mix_arrivals"] = [round(job.arrival, 1) for job in jobs]
    figure.setting["mix_seed"] = turn_mix.SEED
    figure.setting["first_step_ms"] = 1e3 * first_s
    figure.setting["step_ms"] = 1e3 * step_s


def measure(quick: bool) -> Figure:
    """Runs the figure; about 170 s when quick."""
    figure = Figure("sharing")
    policies(figure, quick)
    four_jobs(figure, quick)
    return figure
