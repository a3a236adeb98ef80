"""Shows the quickstart as it runs: a live table on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from torchtide.demo.confine import Report
from torchtide.demo.live import Snapshot

LINE_INTERVAL_S: Final = 5.0
BAR_CELLS: Final = 40


def gib(size_bytes: float) -> str:
    """Bytes as GiB with two digits."""
    return f"{size_bytes / 2**30:.2f} GiB"


class Screen:
    """One phase on the screen; a context manager around it. Used from one thread."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._next_line = time.monotonic() + LINE_INTERVAL_S
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        """Prints the title; a terminal then gets a table that is drawn again and again."""
        self._console.print(Text(self._title, style="bold"))
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the terminal back."""
        if self._live is not None:
            self._live.stop()

    def show(self, report: Report, snapshot: Snapshot | None = None) -> None:
        """Draws where the run is; cheap enough for every tick."""
        if self._live is not None:
            self._live.update(_table(report, snapshot))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_INTERVAL_S
            self._console.print(_line(report, snapshot), highlight=False, soft_wrap=True)


def _line(report: Report, snapshot: Snapshot | None) -> str:
    parts = [f"  {report.seconds:4.0f} s"]
    if report.samples:
        used = gib(report.samples[-1].used_bytes)
        limit = report.capacity_bytes
        parts.append(used if limit is None else f"{used} of {gib(limit)}")
    if snapshot is not None:
        jobs = ", ".join(f"{job.name} {job.iterations}" for job in snapshot.jobs)
        parts.append(f"turn: {snapshot.holder or '-'}, hand-overs {snapshot.handovers}")
        parts.append(f"iterations: {jobs}")
    else:
        parts += [f"{o.name}: {o.sentence()}" for o in report.outcomes.values()]
    return " | ".join(parts)


def _table(report: Report, snapshot: Snapshot | None) -> Group:
    known = {job.name: job for job in snapshot.jobs} if snapshot is not None else {}
    sample = report.samples[-1] if report.samples else None
    table = Table(box=None, pad_edge=False)
    for column in ("job", "how it is", "private", "demoted", "iterations", "steps/s", "turn"):
        table.add_column(column, justify="left" if column in ("job", "how it is") else "right")
    for name, outcome in report.outcomes.items():
        job = known.get(name)
        running = outcome.exit_code is None
        state = job.state if job is not None and running else outcome.sentence()
        held = sample.private.get(name, 0) if sample is not None else 0
        bad = not running and not outcome.finished
        table.add_row(
            name,
            Text(state, style="red" if bad else "green" if outcome.finished else ""),
            gib(held),
            gib(job.demoted_bytes) if job else "",
            str(job.iterations) if job else "",
            f"{job.steps_per_s:.2f}" if job else "",
            "<" if job and job.turn else "",
        )
    lines: list[Table | Text] = [table]
    if sample is not None:
        lines.append(_bar(report, sample.used_bytes))
    if snapshot is not None:
        ledger = f"ledger {gib(snapshot.used_bytes)}, hand-overs {snapshot.handovers}"
        lines.append(Text(ledger, style="dim"))
    return Group(*lines)


def _bar(report: Report, used: int) -> Text:
    if report.capacity_bytes is None:
        return Text(f"{report.seconds:4.0f} s  {gib(used)}")
    cells = min(BAR_CELLS, round(BAR_CELLS * used / report.capacity_bytes))
    bar = "#" * cells + "." * (BAR_CELLS - cells)
    return Text(f"{report.seconds:4.0f} s  [{bar}] {gib(used)} of {gib(report.capacity_bytes)}")
