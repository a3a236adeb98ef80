"""What passing the turn costs: the hand-over, spinning threads, and the way without lanes."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
from typing import Any

from benchmarks import bodies, estimates
from benchmarks.figure import ROOT, Figure
from benchmarks.harness import Deadline
from benchmarks.restart import measure_restart
from benchmarks.workers import Worker, fleet, tide_environment

THREADS = len(os.sched_getaffinity(0))
MODEL = "gpt"
PAGE = 2 << 20
# how GNU OpenMP waits: by default its threads spin after a parallel region, here they sleep at once
SPINNING = {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": ""}
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def handover_program() -> pathlib.Path:
    """Builds benchmarks/lane_handover.cc in build/."""
    build = ROOT / "build"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DTIDE_BUILD_BENCHMARKS=ON"]
    compile_it = ["cmake", "--build", str(build), "--target", "lane_handover"]
    for command in (configure, compile_it):
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return build / "benchmarks" / "lane_handover"


def handovers(figure: Figure, runs: int) -> float:
    """Two C++ processes on one lane; returns the median hand-over in microseconds."""
    program = handover_program()
    lines: list[dict[str, Any]] = []
    for _ in range(runs):
        output = subprocess.run([program], check=True, capture_output=True, text=True, timeout=120)
        lines.append(json.loads(output.stdout.strip().splitlines()[-1]))
    for key in ("handover_us_p50", "handover_us_p99", "over_futex_one_way"):
        figure.put(key, estimates.median([line[key] for line in lines]))
    for key in (
        "futex_one_way_us_p50",
        "futex_one_way_us_p99",
        "bare_futex_half_round_trip_us_p50",
    ):
        figure.baselines[key] = statistics.median(line[key] for line in lines)
    return float(figure.values["handover_us_p50"])


def pair_step_s(workers: tuple[Worker, ...], steps: int) -> float:
    """Seconds a step of jobs that take turns: the slower one's, since each waits for the other."""
    for worker in workers:
        worker.send(steps)
    return max(float(worker.receive()[0]) for worker in workers)


def in_turns(figure: Figure, quick: bool, folder: pathlib.Path) -> None:
    """Two jobs on a lane, their OpenMP threads spinning or asleep while they wait; bytes moved."""
    arms: dict[str, tuple[Worker, ...]] = {}
    for name, variables in (("spin", SPINNING), ("sleep", SLEEPING)):
        # a runtime directory of its own: the two pairs must not take turns with each other
        directory = folder / name
        directory.mkdir(mode=0o700)
        environment = tide_environment(directory, **variables)
        kinds = {"arm": "tide", "model": MODEL, "threads": THREADS}
        # libraries read these variables when they are loaded, so not from the zygote
        arms[name] = tuple(
            Worker(bodies.training, environment, fresh=True, **kinds) for _ in range(2)
        )
    deadline = Deadline(60 if quick else 600)
    with fleet(*arms["spin"], *arms["sleep"]):
        for workers in arms.values():
            pair_step_s(workers, 8)  # learn, then share scratch pages
        before = [worker.call(None) for worker in arms["spin"]]
        seconds: dict[str, list[float]] = {"spin": [], "sleep": []}
        while len(seconds["spin"]) < 5 or (deadline.left > 0 and not quick):
            for name, workers in arms.items():
                seconds[name].append(pair_step_s(workers, 3))
            if deadline.left < 0 and len(seconds["spin"]) >= 3:
                break
        after = [worker.call(None) for worker in arms["spin"]]
    ratio = estimates.paired_ratio(seconds["spin"], seconds["sleep"])
    figure.values["openmp_spin_cost_percent"] = 100 * (ratio.value - 1)
    figure.values["openmp_spin_cost_percent_ci95"] = [100 * (end - 1) for end in ratio.interval]
    pairs = list(zip(before, after, strict=True))
    pages = sum(
        now[key] - then[key]
        for then, now in pairs
        for key in ("demoted_pages_total", "promoted_pages_total")
    )
    moved = pages * PAGE + sum(
        now["privatised_bytes"] - then["privatised_bytes"] for then, now in pairs
    )
    figure.values["bytes_moved"] = moved
    figure.setting["iterations_in_turns"] = after[0]["iterations"] - before[0]["iterations"]


def measure(quick: bool) -> Figure:
    """Runs the figure; about 150 s when quick."""
    figure = Figure("switch", setting={"threads": THREADS, "model": MODEL})
    if shutil.which("cmake") is None:
        figure.require(("handover_us_p50", "handover_us_p99", "over_futex_one_way"), "no cmake")
        return figure
    handover_us = handovers(figure, 5 if quick else 15)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        in_turns(figure, quick, folder)
        restart = measure_restart(MODEL, folder, THREADS)
    figure.values["restart_over_handover"] = restart.total / (handover_us * 1e-6)
    figure.baselines["restart_s"] = restart.total
    return figure
