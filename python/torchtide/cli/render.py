"""Tables of jobs and lanes that shrink to the width of the terminal; needs rich."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from torchtide.cli import core
from torchtide.cli.text import clean, compact_bytes, compact_count, duration_ms, rate

Record = Mapping[str, Any]

_STYLES: Final = {
    "running": "green",
    "loading": "cyan",
    "waiting": "yellow",
    "paused": "magenta",
    "queued": "blue",
    "outside": "",
    "gone": "dim",
}
_SHORT_PRIORITY: Final = {"guaranteed": "guar", "normal": "norm", "opportunistic": "opp"}
#: Where nobody looks at a terminal, nothing is cut.
_PIPE_WIDTH: Final = 240
#: A name gives way down to this before a column is dropped for it.
_NAME_WIDTH_MIN: Final = 12


@dataclass(frozen=True)
class Column:
    """One column: how it is headed, and its cell for a record in the long and the short form."""

    header: str
    long: Callable[[Record], str]
    short: Callable[[Record], str]
    right: bool = True
    droppable: int = 0  # the highest goes first when the table is too wide; 0 stays


def console() -> Console:
    """The terminal; colour only there and without NO_COLOR."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def jobs_table(jobs: Sequence[Record], width: int) -> Table:
    """Jobs as a table no wider than `width` cells: shorter numbers first, then fewer columns."""
    columns, widths, short = fitting_columns(jobs, width)
    table = _plain_table(gap=1 if short else 2)
    for column, cells in zip(columns, widths, strict=True):
        side: JustifyMethod = "right" if column.right else "left"
        table.add_column(
            column.header, justify=side, no_wrap=True, overflow="ellipsis", width=cells
        )
    for job in jobs:
        table.add_row(*(cell(column, job, short) for column in columns))
    return table


def fitting_columns(jobs: Sequence[Record], width: int) -> tuple[list[Column], list[int], bool]:
    """The columns that `width` cells have room for, their widths, and whether in short form.

    Between two columns is a gap of two cells, of one in the short form.
    """
    short = False
    columns = list(JOB_COLUMNS)
    if any(job.get("devices") for job in jobs):
        columns[_GPU_AT:_GPU_AT] = GPU_COLUMNS
    if any(float(job.get("pace", 1)) < 1 for job in jobs):
        columns.insert(_PACE_AT, PACE_COLUMN)
    while _width(columns, jobs, short) > width:
        if not short:
            short = True
            continue
        expendable = max(columns, key=lambda column: column.droppable)
        if expendable.droppable == 0:
            break
        columns.remove(expendable)
    widths = [_column_width(column, jobs, short) for column in columns]
    rest = sum(widths[1:]) + (len(widths) - 1) * (1 if short else 2)
    widths[0] = max(1, min(widths[0], width - rest))
    return columns, widths, short


def lanes_table(lanes: Sequence[Record]) -> Table:
    """Lanes with their policy, holder and members."""
    table = _plain_table()
    for header in ("LANE", "POLICY", "TURN", "HANDOVERS", "SCRATCH", "MEMBERS"):
        right = header in ("LANE", "HANDOVERS", "SCRATCH")
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    for lane in lanes:
        table.add_row(
            str(lane.get("id", "")),
            str(lane.get("policy", "")),
            clean(str(lane.get("holder") or "-")),
            f"{int(lane.get('handovers', 0)):,}",
            core.format_bytes(int(lane.get("scratch_bytes", 0))),
            clean(", ".join(map(str, lane.get("members", [])))) or "-",
        )
    return table


def pairs_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table of text; the last column wraps."""
    table = _plain_table()
    for index, header in enumerate(headers):
        last = index == len(headers) - 1
        table.add_column(header, no_wrap=not last, overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    return table


def state_of(job: Record) -> str:
    """The state, marked when the job has the turn; of an ended one how it ended."""
    state = str(job.get("state", "?"))
    end = job.get("exit") or {}
    if state == "gone" and end.get("signal"):
        return f"signal {end['signal']}"
    if state == "gone" and end.get("code") is not None:
        return f"exit {end['code']}"
    return f"{_turn_mark()} {state}" if job.get("turn") else state


def fitted(text: str, width: int) -> Text:
    """One line of text, cut with an ellipsis where the terminal ends."""
    line = Text(clean(text), no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def _plain_table(gap: int = 2) -> Table:
    padding = (0, gap, 0, 0)
    return Table(box=None, pad_edge=False, padding=padding, show_edge=False, header_style="bold")


def _turn_mark() -> str:
    # While a live view runs, sys.stdout is a stand-in of rich that knows no encoding.
    encoding = (getattr(sys.__stdout__, "encoding", None) or "ascii").lower().replace("-", "")
    return "▶" if encoding.startswith("utf") else ">"


def _limit(job: Record, form: Callable[[int], str]) -> str:
    limit = int(job.get("limit") or 0)
    return form(limit) if limit else "none"


def _sized(key: str) -> tuple[Callable[[Record], str], Callable[[Record], str]]:
    return (
        lambda job: core.format_bytes(int(job.get(key) or 0)),
        lambda job: compact_bytes(int(job.get(key) or 0)),
    )


def _on_devices(*keys: str) -> tuple[Callable[[Record], str], Callable[[Record], str]]:
    """Bytes of a job, over all its devices; a job without any has none to show."""

    def shown(job: Record, form: Callable[[int], str]) -> str:
        devices = job.get("devices") or []
        return (
            form(sum(int(one.get(key) or 0) for one in devices for key in keys)) if devices else "-"
        )

    return (lambda job: shown(job, core.format_bytes), lambda job: shown(job, compact_bytes))


def _device_limits(job: Record, form: Callable[[int], str]) -> str:
    """The limit of each device, in the order of their indices."""
    return ", ".join(_limit(one, form) for one in job.get("devices") or []) or "-"


def _pace(job: Record) -> str:
    return f"{100 * float(job.get('pace', 1)):.3g}%"


def _predicted(job: Record) -> str:
    value = job.get("predicted_suspend_ms")
    return "-" if value is None else duration_ms(float(value) if value else -1.0)


#: In the order of the table.
JOB_COLUMNS: Final = (
    Column("JOB", lambda j: str(j.get("name", "")), lambda j: str(j.get("name", "")), right=False),
    Column("STATE", state_of, state_of, right=False),
    Column(
        "PRIO",
        lambda j: str(j.get("priority", "")),
        lambda j: _SHORT_PRIORITY.get(str(j.get("priority", "")), str(j.get("priority", ""))),
        right=False,
        droppable=5,
    ),
    Column("LIMIT", lambda j: _limit(j, core.format_bytes), lambda j: _limit(j, compact_bytes)),
    Column("RESIDENT", *_sized("resident")),
    Column("DEMOTED", *_sized("demoted"), droppable=2),
    Column("SCRATCH", *_sized("scratch_peak"), droppable=3),
    Column(
        "STEPS/S",
        lambda j: rate(float(j.get("steps_per_s") or 0)),
        lambda j: rate(float(j.get("steps_per_s") or 0)),
        droppable=1,
    ),
    Column("SUSPEND", _predicted, _predicted, droppable=4),
    Column(
        "ITER",
        lambda j: f"{int(j.get('iterations') or 0):,}",
        lambda j: compact_count(int(j.get("iterations") or 0)),
        droppable=6,
    ),
)

#: Where some job is slowed: the share of time that it may run.
PACE_COLUMN: Final = Column("PACE", lambda j: _pace(j), lambda j: _pace(j), droppable=2)
_PACE_AT: Final = 3  # after PRIO

#: Beside the host's, where some job has used a device.
GPU_COLUMNS: Final = (
    Column("GPU", *_on_devices("device")),
    Column("GPU AWAY", *_on_devices("host_mapped", "away"), droppable=2),
    Column(
        "GPU LIMIT",
        lambda j: _device_limits(j, core.format_bytes),
        lambda j: _device_limits(j, compact_bytes),
        droppable=2,
    ),
)
_GPU_AT: Final = 6  # after DEMOTED


def _column_width(column: Column, jobs: Sequence[Record], short: bool) -> int:
    return max([cell_len(column.header), *(cell_len(_shown(column, job, short)) for job in jobs)])


def _width(columns: Sequence[Column], jobs: Sequence[Record], short: bool) -> int:
    """Cells that the table needs when a name may shrink to its least width."""
    widths = []
    for column in columns:
        width = _column_width(column, jobs, short)
        widths.append(min(width, _NAME_WIDTH_MIN) if column.header == "JOB" else width)
    return sum(widths) + (len(widths) - 1) * (1 if short else 2)


def _shown(column: Column, job: Record, short: bool) -> str:
    return clean((column.short if short else column.long)(job))


def cell(column: Column, job: Record, short: bool) -> Text:
    """One cell of the table of jobs with its colour."""
    text = _shown(column, job, short)
    state = str(job.get("state", ""))
    style = _STYLES.get(state, "") if column.header == "STATE" else "dim" if state == "gone" else ""
    return Text(text, style=style)
