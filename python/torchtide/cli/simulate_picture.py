"""The picture of `tide simulate`: completion times as a distribution, GPUs in use over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes one curve a policy into each of two panels.

    Args:
        path: The file; its ending says the format.
        results: What `_core.simulate` returned for one trace and one cluster.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    times, usage = figure.subplots(1, 2)
    for result in results:
        jct = sorted(result["jct_s"])
        share = [(index + 1) / max(len(jct), 1) for index in range(len(jct))]
        times.step([max(value, 1.0) for value in jct], share, where="post", label=result["policy"])
        points = result["usage"]
        usage.step(
            [time / 3600 for time, _ in points],
            [100 * used / result["gpus"] for _, used in points],
            where="post",
            linewidth=0.8,
            label=result["policy"],
        )
    times.set(xscale="log", xlabel="job completion time (s)", ylabel="share of the jobs done")
    usage.set(xlabel="time (h)", ylabel="GPUs in use (%)", ylim=(0, 105))
    for axes in (times, usage):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle(f"{results[0]['trace']}: {results[0]['jobs']} jobs, {results[0]['gpus']} GPUs")
    figure.savefig(path, dpi=130)
