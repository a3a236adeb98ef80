"""`tide demo policies`: one trace of jobs under several cluster policies, in virtual time."""

from __future__ import annotations

import csv
import random
import tempfile
from pathlib import Path
from typing import Any, Final

from torchtide import sim
from torchtide.cli import simulate

POLICIES: Final = ("fifo", "srtf", "dlas-gpu", "gandiva-fair", "themis")
GPUS: Final = 16
_SEED: Final = 3


def write_trace(path: Path, jobs: int) -> None:
    """Jobs that come at random, most of them small and short, a few of them large and long."""
    draw = random.Random(_SEED)
    clock = 0.0
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["job_id", "submit_s", "gpus", "duration_s"])
        for job in range(jobs):
            clock += draw.expovariate(1 / 300)
            gpus = draw.choice([1, 1, 1, 2, 4, 8])
            rows.writerow([job, round(clock), gpus, 1 + round(draw.lognormvariate(6.5, 1.4))])


def run(short: bool) -> dict[str, Any]:
    """Prints the comparison; `ok` says that every job ended under every policy."""
    with tempfile.TemporaryDirectory(prefix="tide-demo-") as folder:
        path = Path(folder) / "trace.csv"
        write_trace(path, 60 if short else 600)
        shown = " ".join(f"-p {policy}" for policy in POLICIES)
        print(f"$ tide simulate trace.csv {shown} --cluster {GPUS}", flush=True)
        request = simulate.Request(path, POLICIES, str(GPUS), "count", [], None, None, False)
        simulate.simulate(request)
        results = sim.compare(sim.read_trace(path), POLICIES, GPUS)
    means = {result["policy"]: float(result["avg_jct_s"]) for result in results}
    best = min(means, key=lambda policy: means[policy])
    print(
        f"\nshortest on average: {best}; {means['fifo'] / means[best]:.1f} times as long under "
        "fifo, where one large job holds up all behind it.\nThe daemon runs the same policies: "
        "docs/reference/policies.md. A policy of your own: docs/guides/first-policy.md."
    )
    done = all(result["jobs_done"] == result["jobs"] for result in results)
    return {"ok": done and means[best] < means["fifo"], "avg_jct_s": means, "best": best}
