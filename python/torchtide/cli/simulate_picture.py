"""Pictures of `tide simulate`: completion times, GPUs in use, and who ran where and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
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


def draw_gantt(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a bar for each stretch of time in which a job held GPUs; a row a job.

    Args:
        path: The file; its ending says the format.
        result: What `_core.simulate` returned with `spans=True`.
    """
    spans = result.get("spans", [])
    jobs = list(dict.fromkeys(job for job, *_ in spans))
    rows = {job: row for row, job in enumerate(jobs)}
    figure = Figure(figsize=(11, min(30.0, 2 + 0.16 * len(jobs))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    most = max((gpus for *_, gpus, _ in spans), default=1)
    colours = colormaps["viridis"]
    for job, begin, end, gpus, _ in spans:
        axes.barh(
            rows[job],
            (end - begin) / 3600,
            left=begin / 3600,
            height=0.8,
            color=colours(gpus / most),
        )
    axes.set(
        xlabel="time (h)", ylabel="job", yticks=range(len(jobs)), yticklabels=jobs, ylim=(-1, None)
    )
    axes.tick_params(axis="y", labelsize=5)
    axes.invert_yaxis()
    bar = figure.colorbar(ScalarMappable(Normalize(0, most), colours), ax=axes)
    bar.set_label("GPUs of a node")
    figure.suptitle(f"{result['trace']}: {result['policy']}, {result['gpus']} GPUs")
    figure.savefig(path, dpi=130)
