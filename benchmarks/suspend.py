"""How fast a job leaves its memory and comes back, against raw copies and against a restart."""

from __future__ import annotations

import pathlib
import statistics
import tempfile
from typing import Any

from benchmarks import bodies, estimates
from benchmarks.figure import Figure
from benchmarks.harness import Deadline, interleave
from benchmarks.raw_copy import RawFile
from benchmarks.restart import measure_restart
from benchmarks.workers import Worker, tide_environment

GIB = 1 << 30
THREADS = 1
# 41 million parameters: with Adam's two moments, and gradients, 0.6 GiB that persist
SIZES = {"width": 6144, "batch": 8}


def prediction_errors(cycles: list[dict[str, Any]]) -> list[float]:
    """|predicted / took - 1| of both directions; the first cycle had seen no move yet."""
    errors = []
    for cycle in cycles[1:]:
        for direction in ("suspend", "resume"):
            predicted, took = cycle[f"predicted_{direction}_s"], cycle[f"{direction}_s"]
            errors.append(abs(predicted / took - 1))
    return errors


def measure(quick: bool) -> Figure:
    """Runs the figure; about 100 s when quick."""
    figure = Figure("suspend", setting={"model": "adam", "threads": THREADS} | SIZES)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        environment = tide_environment(folder)
        with Worker(
            bodies.suspending, environment, model="adam", threads=THREADS, **SIZES
        ) as worker:
            raw_file = RawFile(worker.first["persistent"])
            measured = interleave(
                {"tide": worker.call, "raw": raw_file.copy},
                8 if quick else 20,
                Deadline(60 if quick else 600),
            )
            raw_file.close()
        cycles, raw = measured["tide"], measured["raw"]
        out = [cycle["moved_bytes"] / cycle["suspend_s"] for cycle in cycles]
        back = [(c["moved_bytes"] - c["left_bytes"]) / c["resume_s"] for c in cycles]
        written = [copy.write_bytes_per_s for copy in raw]
        read = [copy.read_bytes_per_s for copy in raw]
        round_trip = [1 / (1 / o + 1 / b) for o, b in zip(out, back, strict=True)]
        raw_round_trip = [1 / (1 / w + 1 / r) for w, r in zip(written, read, strict=True)]
        figure.put("suspend_gib_per_s", estimates.median([value / GIB for value in out]))
        figure.put("resume_gib_per_s", estimates.median([value / GIB for value in back]))
        figure.put("over_raw_copy", estimates.paired_ratio(round_trip, raw_round_trip))
        figure.put("over_raw_copy_suspend", estimates.paired_ratio(out, written))
        figure.put("over_raw_copy_resume", estimates.paired_ratio(back, read))
        figure.put("predicted_error", estimates.median(prediction_errors(cycles)))
        figure.values["moved_gib"] = cycles[-1]["moved_bytes"] / GIB
        figure.values["bitwise_equal"] = all(cycle["same_bits"] for cycle in cycles)
        figure.baselines["raw_write_gib_per_s"] = statistics.median(written) / GIB
        figure.baselines["raw_read_gib_per_s"] = statistics.median(read) / GIB
        restart = measure_restart("adam", folder, THREADS, **SIZES)
    resume_s = statistics.median(cycle["resume_s"] for cycle in cycles)
    figure.values["restart_over_resume"] = restart.total / resume_s
    figure.baselines["restart_s"] = restart.total
    figure.baselines["restart_parts_s"] = {
        "save": restart.save,
        "kill": restart.kill,
        "start_to_first_step": restart.start_to_first_step,
    }
    return figure
