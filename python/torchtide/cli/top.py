"""`tide top`: the machine, its jobs and the last events; once, or live as a plain table of rich."""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from torchtide import errors
from torchtide.cli import core, exits
from torchtide.cli.client import Daemon, open_daemon
from torchtide.cli.edges import Edges
from torchtide.cli.events import sentence

_EVENT_LINES: Final = 3
_BAR_CELLS: Final = 20
_INTERVAL_MIN_S: Final = 0.1


def top(edges: Edges, *, once: bool, interval_s: float, json_output: bool) -> int:
    """Shows the machine until Ctrl-C, or once.

    Args:
        edges: The world outside.
        once: Print and end; so does a stdout that is no terminal.
        interval_s: Seconds between two pictures.
        json_output: Print one object and end.
    """
    if not math.isfinite(interval_s) or interval_s < _INTERVAL_MIN_S:
        raise errors.OptionError(
            f"an interval is at least {_INTERVAL_MIN_S} s",
            asked=f"--interval {interval_s}",
            advice="--interval 1",
        )
    with open_daemon(edges.connect) as daemon:
        if json_output:
            exits.emit_json(snapshot(daemon))
            return exits.OK
        if once or not sys.stdout.isatty():
            from torchtide.cli import render

            console = render.console()
            console.print(*picture(snapshot(daemon), console.width, None, edges.now()), sep="\n")
            return exits.OK
    if importlib.util.find_spec("textual") is None:
        return _live(edges, interval_s)
    from torchtide.cli.top_app import run_top

    return run_top(edges, interval_s)


def snapshot(daemon: Daemon) -> dict[str, Any]:
    """State of the machine with its last events."""
    status = daemon.query("status")
    events = daemon.query("events", count=_EVENT_LINES).get("events", [])
    return {**status, "events": events[-_EVENT_LINES:]}


def picture(state: dict[str, Any], width: int, height: int | None, now_s: float) -> list[Any]:
    """What one picture is made of, from top to bottom.

    Args:
        state: From `snapshot`.
        width: Cells of a line.
        height: Lines of the terminal, or None for as many as it takes.
        now_s: Unix time.
    """
    from torchtide.cli import render

    jobs: Sequence[dict[str, Any]] = state.get("jobs", [])
    lanes: Sequence[dict[str, Any]] = state.get("lanes", [])
    head = [render.fitted(line, width) for line in [memory_line(state), *map(lane_line, lanes)]]
    events = state.get("events", [])[-_EVENT_LINES:]
    tail = [render.fitted(sentence(event, now_s), width) for event in events]
    room = len(jobs) if height is None else height - len(head) - len(tail) - 4
    shown = jobs[: max(room, 1)]
    body: list[Any] = [
        render.jobs_table(shown, width) if shown else render.fitted("no jobs", width)
    ]
    if len(shown) < len(jobs):
        body.append(
            render.fitted(f"... and {len(jobs) - len(shown)} more; `tide ps` lists all", width)
        )
    return [*head, "", *body, *([""] if tail else []), *tail]


def memory_line(state: dict[str, Any]) -> str:
    """Used and total memory with a bar."""
    used, capacity = int(state.get("used") or 0), int(state.get("capacity") or 0)
    title = f"tide {state.get('version', '?')}"
    if not capacity:
        return f"{title}  memory {core.format_bytes(used)} used, no stated capacity"
    share = max(0.0, min(1.0, used / capacity))
    filled = round(share * _BAR_CELLS)
    bar = "#" * filled + "." * (_BAR_CELLS - filled)
    sizes = f"{core.format_bytes(used)} of {core.format_bytes(capacity)}"
    return f"{title}  memory [{bar}] {sizes} ({share:.0%})"


def lane_line(lane: dict[str, Any]) -> str:
    """One lane: its policy, who has the turn, how often it passed on."""
    holder = lane.get("holder") or "nobody"
    scratch = core.format_bytes(int(lane.get("scratch_bytes") or 0))
    return (
        f"lane {lane.get('id')}  {lane.get('policy')}  {len(lane.get('members', []))} members  "
        f"{int(lane.get('handovers') or 0):,} handovers  scratch {scratch}  turn: {holder}"
    )


def _live(edges: Edges, interval_s: float) -> int:
    """Draws until Ctrl-C; a daemon that goes away is waited for."""
    from rich.console import Group
    from rich.live import Live

    from torchtide.cli import render

    console = render.console()
    pause = threading.Event()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                try:
                    with open_daemon(edges.connect) as daemon:
                        _draw_until_gone(
                            lambda state: live.update(
                                Group(*picture(state, console.width, console.height, edges.now())),
                                refresh=True,
                            ),
                            daemon,
                            pause,
                            interval_s,
                        )
                except errors.DaemonUnavailable:
                    note = "the daemon is gone, jobs train on with their last limits; waiting"
                    live.update(render.fitted(note, console.width), refresh=True)
                pause.wait(interval_s)
        except KeyboardInterrupt:
            return exits.OK


def _draw_until_gone(
    draw: Callable[[dict[str, Any]], None],
    daemon: Daemon,
    pause: threading.Event,
    interval_s: float,
) -> None:
    while True:
        draw(snapshot(daemon))
        pause.wait(interval_s)
