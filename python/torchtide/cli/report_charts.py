"""Pictures of `tide report` as SVG text: areas, lines, strips; no script, no font, no library.

Colours are classes (`c0`, `c1`, ..., `running`, `paused`, ...), so that the page's style decides
them, in light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 960
_LEFT: Final = 76
_RIGHT: Final = 10
_TOP: Final = 8
_BOTTOM: Final = 26
_ROW: Final = 24
COLOURS: Final = 8

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Frame:
    """Where seconds and values lie in a picture."""

    seconds: float
    top: float
    height: int

    def x(self, seconds: float) -> float:
        """Cells from the left."""
        share = seconds / self.seconds if self.seconds > 0 else 0.0
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * min(max(share, 0.0), 1.0)

    def y(self, value: float) -> float:
        """Cells from the top."""
        inner = self.height - _TOP - _BOTTOM
        return _TOP + inner * (1 - min(max(value / self.top, 0.0), 1.0))


def steps(top: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at least `top`: 1, 2 or 5 times a power of ten apart."""
    if not math.isfinite(top) or top <= 0:
        return [0.0, 1.0]
    rough = top / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def byte_steps(top: float) -> list[float]:
    """As `steps`, in round numbers of the binary unit that fits."""
    unit = 1024.0 ** max(0, math.floor(math.log(max(top, 1), 1024)))
    return [value * unit for value in steps(top / unit)]


def time_steps(seconds: float, count: int = 8) -> list[float]:
    """As `steps` for a length of time: above a minute in whole parts of minutes, hours and days."""
    if seconds < 100:
        return steps(seconds, count)
    sizes = (15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
    step = next((s for s in sizes if seconds / s <= count), 86400 * math.ceil(seconds / 6e5))
    return [float(step * i) for i in range(math.ceil(seconds / step) + 1)]


def clock(seconds: float) -> str:
    """A moment of the run: "40 s", "3:20", "2:05:00"."""
    whole = round(seconds)
    if whole < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def stacked(
    frame: Frame, layers: Sequence[tuple[str, Sequence[float]]], at: Sequence[float]
) -> str:
    """Areas upon each other.

    Args:
        frame: The scales.
        layers: From the bottom up: a class and a value for each moment.
        at: The moments, in seconds.
    """
    parts, floor = [], [0.0] * len(at)
    for colour, values in layers:
        roof = [low + value for low, value in zip(floor, values, strict=True)]
        upper = [(frame.x(t), frame.y(v)) for t, v in zip(at, roof, strict=True)]
        lower = [(frame.x(t), frame.y(v)) for t, v in zip(at, floor, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
        parts.append(f'<polygon class="{colour}" points="{path}"/>')
        floor = roof
    return "".join(parts)


def line(frame: Frame, colour: str, points: Points) -> str:
    """One curve."""
    path = " ".join(f"{frame.x(t):.1f},{frame.y(v):.1f}" for t, v in points)
    return f'<polyline class="line {colour}" points="{path}"/>' if path else ""


def level(frame: Frame, value: float, label: str) -> str:
    """A dashed line across, with its name."""
    y = frame.y(value)
    return (
        f'<line class="level" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{WIDTH - _RIGHT}" y="{y + 12:.1f}" text-anchor="end">{html.escape(label)}</text>'
    )


def marks(frame: Frame, moments: Sequence[tuple[float, str]]) -> str:
    """Ticks at the bottom that say their sentence when pointed at."""
    y = frame.height - _BOTTOM
    return "".join(
        f'<path class="mark" d="M{frame.x(t):.1f} {y} l-4 8 h8 z"><title>{html.escape(words)}'
        "</title></path>"
        for t, words in moments
    )


def framed(
    frame: Frame, title: str, inside: str, ticks: Sequence[float], unit: Callable[[float], str]
) -> str:
    """A picture with its axes."""
    grid = []
    for value in ticks:
        y, words = frame.y(value), html.escape(unit(value))
        grid.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
        )
    return _svg(frame, title, "".join(grid) + inside + _time_axis(frame))


def strips(
    seconds: float, title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float, float]]]]
) -> str:
    """A row of bars for each job.

    Args:
        seconds: Length of the run.
        title: What a reader that does not see it is told.
        rows: A name and its (class, begin, end).
    """
    frame = Frame(seconds, 1.0, _TOP + _ROW * max(len(rows), 1) + _BOTTOM)
    parts = []
    for row, (name, bars) in enumerate(rows):
        top = _TOP + row * _ROW
        short = name if len(name) <= 11 else name[:10] + "…"
        parts.append(
            f'<text x="{_LEFT - 6}" y="{top + 16}" text-anchor="end">{html.escape(short)}'
            f"<title>{html.escape(name)}</title></text>"
        )
        for kind, begin, end in bars:
            x, width = frame.x(begin), max(frame.x(end) - frame.x(begin), 0.5)
            words = html.escape(f"{name} {kind}, {clock(begin)} to {clock(end)}")
            parts.append(
                f'<rect class="state {html.escape(kind)}" x="{x:.1f}" y="{top + 3}" '
                f'width="{width:.1f}" height="{_ROW - 6}"><title>{words}</title></rect>'
            )
    return _svg(frame, title, "".join(parts) + _time_axis(frame))


def _time_axis(frame: Frame) -> str:
    y = frame.height - _BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>']
    for value in time_steps(frame.seconds):
        if value <= frame.seconds:
            x = frame.x(value)
            anchor = "end" if x > WIDTH - 40 else "middle"
            text = f'<text x="{x:.1f}" y="{y + 20}" text-anchor="{anchor}">{clock(value)}</text>'
            parts.append(text)
    return "".join(parts)


def _svg(frame: Frame, title: str, inside: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {frame.height}" role="img" '
        f'aria-label="{html.escape(title)}">{inside}</svg>'
    )
