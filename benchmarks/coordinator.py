"""What a coordinator of 10,000 jobs takes: reports, grants, memory, a restart after kill -9."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

from benchmarks import estimates
from benchmarks.figure import ROOT, Figure
from benchmarks.harness import Deadline, interleave

TIDED = ROOT / "python" / "torchtide" / "bin" / "tided"
#: Of the contract; `jobs_registered` and `lost_changes` are counts, the rest are medians.
MEDIANS = (
    *("reports_per_s", "reports_per_cpu_s", "grant_rtt_us_p50", "grant_rtt_us_p99"),
    *("grant_rtt_quiet_us_p50", "grant_rtt_quiet_us_p99"),
    *("bytes_per_job", "bytes_per_connection", "restart_s"),
)


def load_program() -> pathlib.Path:
    """Builds benchmarks/coordinator_load.cc in build/."""
    build = ROOT / "build"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DTIDE_BUILD_BENCHMARKS=ON"]
    compile_it = ["cmake", "--build", str(build), "--target", "coordinator_load"]
    for command in (configure, compile_it):
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return build / "benchmarks" / "coordinator_load"


def run_load(program: pathlib.Path, **numbers: int) -> dict[str, Any]:
    """One run with a daemon and a folder of its own; returns its line of JSON."""
    folder = tempfile.mkdtemp(prefix="tide-load-")
    try:
        options = [f"--{name}={value}" for name, value in numbers.items()]
        command = [str(program), str(TIDED), folder, *options]
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        line: dict[str, Any] = json.loads(output.stdout.strip().splitlines()[-1])
        return line
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(quick: bool) -> Figure:
    """Runs the figure; about two minutes when quick."""
    program = load_program()
    numbers = {"jobs": 10_000, "nodes": 1000, "probes": 1000, "reports_per_s": 10_000}
    numbers["reports"] = 300_000 if quick else 1_000_000
    figure = Figure("coordinator", setting=dict(numbers))
    rounds = interleave(
        {"tide": lambda: run_load(program, **numbers)}, 5 if quick else 15, Deadline(120)
    )["tide"]
    for key in MEDIANS:
        figure.put(key, estimates.median([float(line[key]) for line in rounds]))
    figure.values["jobs_registered"] = min(line["jobs_registered"] for line in rounds)
    figure.values["lost_changes"] = sum(line["lost_changes"] for line in rounds)
    figure.put(
        "grant_over_tcp_round_trip",
        estimates.paired_ratio(
            [float(line["grant_rtt_us_p50"]) for line in rounds],
            [float(line["tcp_round_trip_us_p50"]) for line in rounds],
        ),
    )
    tcp = estimates.median([float(line["tcp_round_trip_us_p50"]) for line in rounds])
    figure.baselines["tcp_round_trip_us_p50"] = tcp.value
    return figure
