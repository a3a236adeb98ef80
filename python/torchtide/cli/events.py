"""`tide events`: what happened and why, a sentence a line, as it happens with -f."""

from __future__ import annotations

import sys
from typing import Any, Final

from torchtide import errors
from torchtide.cli import exits, text
from torchtide.cli.client import Daemon, open_daemon
from torchtide.cli.edges import Edges

#: One wait for the next event; only bounds how long a dead connection goes unnoticed.
_WAIT_S: Final = 3600.0


def events(
    edges: Edges, *, follow: bool, since: str | None, job: str | None, last: int, json_output: bool
) -> int:
    """Prints past events, and with `follow` those to come until Ctrl-C.

    Args:
        edges: The world outside.
        follow: Go on with new events.
        since: Only events after this moment ("10m", "14:30", an ISO date); None for all kept.
        job: Only events of this job.
        last: At most so many past events, the newest; 0 for all.
        json_output: One object with all events, or with `follow` one object a line.
    """
    earliest = _moment(since, edges.now())
    with open_daemon(edges.connect) as daemon:
        count = 0 if since else last
        answer = daemon.query("events", job=job or "", follow=follow, count=count)
        past = [
            event for event in answer.get("events", []) if float(event.get("time", 0)) >= earliest
        ]
        past = past[-last:] if last else past
        if json_output and not follow:
            exits.emit_json({"events": past, "last_seq": answer.get("last_seq")})
            return exits.OK
        for event in past:
            _print(event, edges, json_output)
        if not past and not follow:
            print("no events" + (f" since {since}" if since else ""), file=sys.stderr)
        if follow:
            _follow(daemon, edges, job, json_output)
    return exits.OK


def sentence(event: dict[str, Any], now_s: float) -> str:
    """One event as a line: local time, the job unless the text names it, the text."""
    job, words = str(event.get("job") or ""), str(event.get("text") or event.get("kind") or "")
    subject = f"{job}: " if job and job not in words else ""
    when = text.local_time(float(event.get("time", 0)), now_s)
    return text.clean(f"{when}  {subject}{words}")


def _follow(daemon: Daemon, edges: Edges, job: str | None, json_output: bool) -> None:
    try:
        while True:
            event = daemon.followed(_WAIT_S)
            if event is not None and (not job or event.get("job") == job):
                _print(event, edges, json_output)
    except KeyboardInterrupt:
        return


def _print(event: dict[str, Any], edges: Edges, json_output: bool) -> None:
    if json_output:
        exits.emit_json(event)
    else:
        line = sentence(event, edges.now())
        print(text.fold(line, line.index("  ") + 2), flush=True)


def _moment(since: str | None, now_s: float) -> float:
    if since is None:
        return 0.0
    try:
        return text.parse_since(since, now_s)
    except (ValueError, OverflowError) as error:
        raise errors.OptionError(
            "not a moment",
            asked=f"--since {since}",
            advice="write how long ago (10m, 2h), a time (14:30) or a date (2026-01-31T14:30)",
        ) from error
