"""Draws memory over time, as plain processes and under tide, and whose turn it was."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torchtide.demo.confine import Report
from torchtide.demo.jobs import Record
from torchtide.demo.live import LiveStatus

COLOURS: Final = ("#4269d0", "#efb118", "#3ca951", "#ff725c", "#a463f2", "#97bbf5")
SHARED_COLOUR: Final = "#9c6b4e"
OTHER_COLOUR: Final = "#c8c8c8"
GIB: Final = 2.0**30
#: (start, end) in seconds since the start of a run.
Span = tuple[float, float]


def own_iterations(report: Report, record: Record) -> list[Span]:
    """The iterations of a job by its own times."""
    times = [t - report.started for t in record.times]
    return list(itertools.pairwise(times))


def turns(seen: Sequence[tuple[float, str]], end: float) -> dict[str, list[Span]]:
    """The turns by job, from who was seen to have it: (seconds, job or ""), each until the next."""
    spans: dict[str, list[Span]] = {}
    for (start, name), (until, _) in itertools.pairwise([*seen, (end, "")]):
        if name:
            spans.setdefault(name, []).append((start, until))
    return spans


def draw(
    path: Path,
    plain: Report,
    tide: Report | None,
    records: Mapping[str, Mapping[str, Record]],
    ledger: LiveStatus | None = None,
) -> None:
    """Writes the picture as PNG.

    Args:
        path: The file to write.
        plain: The attempt as plain processes.
        tide: The run under tide, or None when there was none.
        records: What the jobs of "plain" and of "tide" wrote about their iterations, by name.
        ledger: What tide itself told during its run; None when there was none.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    reports = [("plain", plain), *([("tide", tide)] if tide is not None else [])]
    figure, axes = plt.subplots(
        2,
        len(reports),
        figsize=(6.5 * len(reports), 6),
        sharey="row",
        squeeze=False,
        height_ratios=(3, 1),
        layout="constrained",
    )
    for column, (kind, report) in enumerate(reports):
        memory, strip = axes[0][column], axes[1][column]
        _draw_memory(memory, report)
        told = ledger if kind == "tide" else None
        _draw_turns(strip, report, records[kind], told)
        if told is not None and told.used:
            seconds, used = zip(*told.used, strict=True)
            style = {"color": "black", "linewidth": 0.8, "linestyle": ":"}
            memory.plot(seconds, [size / GIB for size in used], label="tide's ledger", **style)
        finished = sum(outcome.finished for outcome in report.outcomes.values())
        title = {"plain": "plain processes", "tide": "under tide"}[kind]
        memory.set_title(f"{title}: {finished} of {len(report.outcomes)} finish")
        strip.set_xlabel("seconds")
        memory.sharex(strip)
    axes[0][0].set_ylabel("physical memory, GiB")
    handles, labels = axes[0][-1].get_legend_handles_labels()
    columns = len(labels) if len(reports) > 1 else 4
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_memory(axis: Any, report: Report) -> None:
    seconds = [s.seconds for s in report.samples]
    layers: list[tuple[str, str, list[float]]] = []
    for colour, name in zip(COLOURS, report.outcomes, strict=False):
        layers.append((name, colour, [s.private.get(name, 0) / GIB for s in report.samples]))
    shared = [s.shared_bytes / GIB for s in report.samples]
    layers.append(("shared scratch", SHARED_COLOUR, shared))
    rest = [
        max(0, s.used_bytes - s.shared_bytes - sum(s.private.values())) / GIB
        for s in report.samples
    ]
    layers.append(("files, loaders, kernel", OTHER_COLOUR, rest))
    if seconds:
        axis.stackplot(
            seconds,
            [values for _, _, values in layers],
            labels=[label for label, _, _ in layers],
            colors=[colour for _, colour, _ in layers],
            linewidth=0,
        )
    if report.capacity_bytes is not None:
        line = {"color": "black", "linestyle": "--", "linewidth": 1}
        axis.axhline(report.capacity_bytes / GIB, label="capacity", **line)
    ended = [o for o in report.outcomes.values() if o.exit_code is not None]
    for row, outcome in enumerate(o for o in ended if not o.finished and not o.stopped):
        axis.axvline(outcome.seconds, color="red", linewidth=1)
        text = f" {outcome.name} {'killed' if outcome.killed_for_memory else 'failed'}"
        place = (outcome.seconds, 0.92 - 0.05 * row)  # a line each: they die together
        style = {"color": "red", "fontsize": 8}
        axis.annotate(text, place, xycoords=axis.get_xaxis_transform(), **style)
    axis.margins(x=0)


def _draw_turns(
    axis: Any, report: Report, records: Mapping[str, Record], ledger: LiveStatus | None
) -> None:
    """A row a job: its turns where jobs take turns, else its iterations, as far as it told them."""
    names: Sequence[str] = list(report.outcomes)
    shared = turns(ledger.turns, report.seconds) if ledger is not None else {}
    for row, (colour, name) in enumerate(zip(COLOURS, names, strict=False)):
        place = (row - 0.4, 0.8)
        outcome = report.outcomes[name]
        spans = shared.get(name, [])
        if ledger is None and name in records:
            spans = own_iterations(report, records[name])
        if spans:
            bars = [(start, end - start) for start, end in spans]
            axis.broken_barh(bars, place, facecolors=colour, edgecolors="white", linewidth=0.3)
        if not outcome.finished:  # a plain job that did not live has told no iterations
            life = [(0.0, outcome.seconds)]
            axis.broken_barh(life, place, facecolors="none", edgecolors=colour, hatch="////")
            axis.plot(outcome.seconds, row, marker="x", color="red")
        elif ledger is not None and name in records:
            for _, end in own_iterations(report, records[name]):
                axis.vlines(end, row - 0.4, row + 0.4, color="white", linewidth=0.6)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)  # the first on top, as in the stack's legend
    axis.margins(x=0)
