"""The page that `tide report` writes: one file with everything in it, light and dark, no script."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

from torchtide.cli import report_charts as charts
from torchtide.cli import text
from torchtide.cli.core import format_bytes
from torchtide.cli.report_record import Recording, reasons

_HEIGHT: Final = 260
#: Events in the list; more are counted.
_EVENTS_SHOWN: Final = 400
_STATES: Final[Mapping[str, str]] = {
    "running": "has its turn",
    "waiting": "waits for it",
    "loading": "loads its next batch",
    "queued": "waits to be admitted",
    "paused": "paused",
    "outside": "between iterations",
}

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5d6b7a; --rule: #d8dee6;
  --ground: #f6f8fa; --card: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --soft: #93a1b0; --rule: #2d3742;
  --ground: #12171d; --card: #1a2129; } }
body { margin: 0 auto; max-width: 1040px; padding: 20px; color: var(--ink);
  background: var(--ground); font: 14px/1.5 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0; } h2 { font-size: 15px; margin: 0 0 8px; } p { margin: 4px 0; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 14px; margin-top: 14px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); }
td, th { padding: 3px 12px 3px 0; vertical-align: top; } .number { text-align: right; }
.soft { color: var(--soft); }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 6px 0 12px; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); }
.level { stroke: var(--ink); stroke-dasharray: 6 4; } .mark { fill: var(--soft); }
polygon { stroke: none; } .line { fill: none; stroke-width: 1.6; }
.all { stroke: var(--ink); stroke-dasharray: 2 3; }
.running { fill: #2f9e6e; background: #2f9e6e; } .waiting { fill: #9fb3c8; background: #9fb3c8; }
.loading { fill: #d9822b; background: #d9822b; } .paused { fill: #b0499c; background: #b0499c; }
.queued { fill: #c2a01f; background: #c2a01f; } .outside { fill: #5d6b7a; background: #5d6b7a; }
"""
_PALETTE: Final = (
    *("#3b7dd8", "#d9822b", "#2f9e6e", "#b0499c"),
    *("#8a6fd1", "#c2a01f", "#3aa6b9", "#d0574f"),
)


def page(recording: Recording, events: Sequence[Mapping[str, Any]], note: str = "") -> str:
    """The whole document, well-formed as XML too.

    Args:
        recording: With at least one sample.
        events: Event records of that time, in order.
        note: What is missing, as a sentence; "" when nothing is.
    """
    names = recording.names()
    colours = {number: f"c{i % charts.COLOURS}" for i, number in enumerate(names)}
    told = reasons(events, recording.began)
    parts = [
        f"<h1>torchtide: {_count(len(names), 'job')} in {charts.clock(recording.seconds)}</h1>",
        f'<p class="soft">{_escaped(_head(recording))}</p>',
        f"<p>{_escaped(note)}</p>" if note else "",
        _section(
            "Memory by job", _memory(recording, names, colours, told), _legend(names, colours)
        ),
        _section("What the jobs did", _strips(recording, names), _states_legend(recording, names)),
        _section("In the file tier", _demoted(recording, names, colours), ""),
        _section("Steps per second", _rates(recording, names, colours), ""),
        _section("Jobs", _table(recording, names, colours), ""),
        _section("Decisions and why", _events(told, recording.began), ""),
        f'<p class="soft">Looked at every {recording.interval_s:g} s, so a turn or a peak that is '
        "shorter is seen by chance; iterations are counted, not sampled.</p>",
    ]
    classes = "".join(
        f".c{i} {{ fill: {c}; background: {c}; }} .line.c{i} {{ fill: none; stroke: {c}; }}\n"
        for i, c in enumerate(_PALETTE)
    )
    title = _escaped(f"torchtide: {', '.join(list(names.values())[:3])}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta name="viewport" content="width=device-width"/><title>{title}</title>'
        f"<style>{_STYLE}{classes}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _head(recording: Recording) -> str:
    end = recording.began + recording.seconds
    capacity = f" of {format_bytes(recording.capacity)}" if recording.capacity else ""
    since, until = text.local_time(recording.began, end), text.local_time(end, end)
    return f"{since} to {until}; at most {format_bytes(recording.used_peak)}{capacity} in use"


def _memory(
    recording: Recording,
    names: Mapping[int, str],
    colours: Mapping[int, str],
    told: Sequence[tuple[float, str, str]],
) -> str:
    at = [sample.seconds for sample in recording.samples]
    layers = [
        (colours[n], [float(s.jobs[n].memory) if n in s.jobs else 0.0 for s in recording.samples])
        for n in names
    ]
    used = [(s.seconds, float(s.used)) for s in recording.samples]
    sums = [sum(values) for values in zip(*(v for _, v in layers), strict=True)]
    top = max([recording.capacity, *sums, *(u for _, u in used), 1.0])
    ticks = charts.byte_steps(top)
    frame = charts.Frame(recording.seconds, ticks[-1], _HEIGHT)
    inside = charts.stacked(frame, layers, at) + charts.line(frame, "all", used)
    if recording.capacity:
        inside += charts.level(frame, recording.capacity, "capacity")
    seen = [(t, words) for t, _, words in told if 0 <= t <= recording.seconds]
    inside += charts.marks(frame, seen)
    title = "Memory of the jobs over time, one upon the other; triangles are decisions"
    return charts.framed(frame, title, inside, ticks, lambda v: format_bytes(int(v)))


def _demoted(recording: Recording, names: Mapping[int, str], colours: Mapping[int, str]) -> str:
    curves = {
        n: [(s.seconds, float(s.jobs[n].demoted)) for s in recording.samples if n in s.jobs]
        for n in names
    }
    top = max((value for points in curves.values() for _, value in points), default=0.0)
    if top <= 0:
        return "<p>Nothing was moved out of memory.</p>"
    ticks = charts.byte_steps(top)
    frame = charts.Frame(recording.seconds, ticks[-1], _HEIGHT)
    inside = "".join(charts.line(frame, colours[n], points) for n, points in curves.items())
    title = "Memory of each job in the file tier over time"
    return charts.framed(frame, title, inside, ticks, lambda v: format_bytes(int(v)))


def _rates(recording: Recording, names: Mapping[int, str], colours: Mapping[int, str]) -> str:
    curves = {n: recording.rates(n) for n in names}
    top = max((value for points in curves.values() for _, value in points), default=0.0)
    if top <= 0:
        return "<p>No job ended an iteration meanwhile.</p>"
    ticks = charts.steps(top)
    frame = charts.Frame(recording.seconds, ticks[-1], _HEIGHT)
    inside = "".join(charts.line(frame, colours[n], points) for n, points in curves.items())
    title = "Iterations a second of each job"
    return charts.framed(frame, title, inside, ticks, lambda v: f"{v:.3g}")


def _strips(recording: Recording, names: Mapping[int, str]) -> str:
    rows = [(name, list(recording.spans(number))) for number, name in names.items()]
    return charts.strips(recording.seconds, "States of each job over time", rows)


def _table(recording: Recording, names: Mapping[int, str], colours: Mapping[int, str]) -> str:
    heads = ("job", "script", "end", "iterations", "steps/s", "most in memory", "most demoted")
    lines = ["".join(_cell(h, "th", i >= 3) for i, h in enumerate((*heads, "had its turn")))]
    for number, name in names.items():
        of = recording.figures(number)
        turn = of["shares"].get("running")
        cells = (
            of["script"],
            of["end"],
            f"{of['iterations']:,}",
            text.rate(of["rate"]),
            format_bytes(of["memory_peak"]),
            format_bytes(of["demoted_peak"]),
            "-" if turn is None else f"{turn:.0%} of the time",
        )
        key = f'<td><span class="key {colours[number]}"></span>{_escaped(name)}</td>'
        lines.append(key + "".join(_cell(c, "td", i >= 2) for i, c in enumerate(cells)))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _events(told: Sequence[tuple[float, str, str]], began: float) -> str:
    if not told:
        return "<p>None.</p>"
    rows = []
    for seconds, job, words in told[:_EVENTS_SHOWN]:
        subject = f"{job}: " if job and job not in words else ""
        when = text.local_time(began + seconds, began)
        rows.append(
            f'<tr><td class="soft">{_escaped(when)}</td><td>{_escaped(subject + words)}</td></tr>'
        )
    more = len(told) - _EVENTS_SHOWN
    rest = f'<p class="soft">and {more} more; `tide events -n 0` has them</p>' if more > 0 else ""
    return "<table>" + "".join(rows) + "</table>" + rest


def _legend(names: Mapping[int, str], colours: Mapping[int, str]) -> str:
    keys = [
        f'<span class="key {colours[number]}"></span>{_escaped(name)}'
        for number, name in names.items()
    ]
    lines = " dotted: the whole ledger, with the scratch that lanes share"
    return "<p>" + "".join(keys) + f'<span class="soft"> {lines}</span></p>'


def _states_legend(recording: Recording, names: Mapping[int, str]) -> str:
    seen = {state for number in names for state, _, _ in recording.spans(number)}
    return (
        "<p>"
        + "".join(
            f'<span class="key {state}"></span>{words}'
            for state, words in _STATES.items()
            if state in seen
        )
        + "</p>"
    )


def _section(title: str, body: str, legend: str) -> str:
    return f"<section><h2>{title}</h2>{body}{legend}</section>"


def _cell(words: str, kind: str, number: bool) -> str:
    shape = ' class="number"' if number else ""
    return f"<{kind}{shape}>{_escaped(words)}</{kind}>"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _escaped(words: str) -> str:
    return html.escape(text.clean(words))
