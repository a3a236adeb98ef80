"""How fast the simulator replays traces, and whether its results are the published ones."""

from __future__ import annotations

import csv
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

from benchmarks import estimates, plain_las
from benchmarks.figure import ROOT, Figure
from benchmarks.harness import Deadline, interleave

TRACES = ROOT / "tests" / "sim" / "traces"
#: The larger traces are beside the repository, where they are.
BESIDE = (ROOT.parent / "shared" / "traces", ROOT.parents[1] / "shared" / "traces")
#: Policies that search or solve for a whole cluster in each round: measured with fewer jobs.
SEARCHING = frozenset(
    (
        *("gavel-max-min", "gavel-water-filling", "gavel-packed", "gavel-finish-time"),
        *("gavel-makespan", "gavel-throughput", "gavel-cost", "muri-s", "muri-l", "gandiva"),
        *("pollux", "sia-like", "afs", "optimus", "lyra", "elasticflow", "easyscale"),
    )
)
COUNTS = ("jobs_done", "jobs", "preemptions", "events", "median_jct_s", "p99_jct_s", "makespan_s")


def find(name: str) -> pathlib.Path | None:
    """The file of a trace, or None."""
    paths = [folder / f"{name}.csv" for folder in (TRACES, *BESIDE)]
    return next((path for path in paths if path.exists()), None)


def is_golden(result: dict[str, Any], row: dict[str, str]) -> bool:
    """Three decimals of the mean and every count are equal."""
    return f"{result['avg_jct_s']:.3f}" == row["avg_jct_s"] and all(
        result[key] == int(row[key]) for key in COUNTS
    )


def _goldens(core: Any, figure: Figure) -> None:
    goldens = find("goldens")
    assert goldens is not None
    rows = list(csv.DictReader(goldens.open(encoding="utf-8")))
    read = functools.cache(lambda path: core.read_trace(str(path)))
    equal = total = 0
    for row in rows:
        path = find(row["trace"])
        if path is None:
            continue
        total += 1
        equal += is_golden(core.simulate(read(path), row["policy"], 1, int(row["gpus"])), row)
    figure.values["goldens_equal"], figure.values["goldens_total"] = equal, total
    if total < len(rows):
        figure.why["goldens_total"] = f"{len(rows) - total} rows are of traces that are not here"


def _seconds(core: Any, trace: Any, policy: str, gpus: int) -> float:
    return float(core.simulate(trace, policy, 1, gpus)["seconds"])


def _decisions(core: Any, jobs: int, searching: bool) -> dict[str, float]:
    """p99 of a decision among `jobs` that are there at once, by policy."""
    waiting = core.draw_trace(jobs, 64, 1000.0, 1)
    return {
        name: core.simulate(waiting, name, 1, 64, timed=True)["decide_ms_p99"]
        for name, _ in core.cluster_policies()
        if (name in SEARCHING) == searching
    }


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _against_plain(core: Any, figure: Figure, rounds: int) -> None:
    path = find("muri3")
    assert path is not None
    with path.open(encoding="utf-8") as file:
        jobs = [
            (int(row["submit_s"]), int(row["gpus"]), int(row["duration_s"]))
            for row in csv.DictReader(file)
        ]
    trace = core.read_trace(str(path))
    result = core.simulate(trace, "dlas-gpu-fixed", 1, 64)
    done, events = plain_las.replay(jobs, 64)
    figure.values["plain_equal"] = (
        sorted(done) == sorted(result["jct_s"]) and events == result["events"]
    )
    seconds = interleave(
        {
            "tide": lambda: _seconds(core, trace, "dlas-gpu-fixed", 64),
            "plain": lambda: _timed(lambda: plain_las.replay(jobs, 64)),
        },
        rounds,
        Deadline(60),
        rounds_min=5,
    )
    figure.put("speed_over_plain_python", estimates.paired_ratio(seconds["plain"], seconds["tide"]))
    figure.baselines["plain_events_per_s"] = events / estimates.median(seconds["plain"]).value
    figure.baselines["published_events_per_s"] = None
    figure.why["published_events_per_s"] = (
        "the published simulator needs Python 2.7; docs/reference/policies.md quotes a run of it"
    )


def measure(quick: bool) -> Figure:
    """Runs the figure; under a minute when quick."""
    from torchtide import _core as core

    rounds = 5 if quick else 15
    figure = Figure("simulator", setting={"rounds": rounds, "drawn_seed": 1, "drawn_load": 0.95})
    drawn = core.draw_trace(200_000, 1024, 0.95, 1)
    events = core.simulate(drawn, "fifo", 1, 1024)["events"]
    rates = [events / _seconds(core, drawn, "fifo", 1024) for _ in range(rounds)]
    figure.put("events_per_s_fifo", estimates.median(rates))
    philly = find("philly_all")
    if philly is None:
        figure.missing("philly_all_las_s", "philly_all.csv is not in ../shared/traces")
    else:
        trace = core.read_trace(str(philly))
        runs = [_seconds(core, trace, "dlas-gpu-fixed", 512) for _ in range(rounds)]
        figure.put("philly_all_las_s", estimates.median(runs))
    million = core.draw_trace(1_000_000, 4096, 0.95, 1)
    runs = [_seconds(core, million, "dlas-gpu-fixed", 4096) for _ in range(5)]
    figure.put("million_jobs_s", estimates.median(runs))
    worst = _decisions(core, 2000, searching=False)
    figure.values["decide_ms_p99_2000_jobs"] = max(worst.values())
    figure.values["decide_ms_p99_by_policy"] = worst
    figure.values["decide_ms_p99_200_jobs_searching"] = _decisions(core, 200, searching=True)
    _goldens(core, figure)
    _against_plain(core, figure, rounds)
    return figure
