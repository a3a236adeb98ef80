"""`tide report`: looks at the jobs until they have ended and writes a page with pictures."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torchtide import errors
from torchtide.cli import core, exits, text
from torchtide.cli.client import Daemon, open_daemon
from torchtide.cli.edges import Edges
from torchtide.cli.report_history import remembered, span_s
from torchtide.cli.report_page import page
from torchtide.cli.report_record import Recording

_INTERVAL_MIN_S: Final = 0.05
#: The most that the daemon tells at once.
_EVENTS_MAX: Final = 1000


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    output: Path
    seconds: float | None  # None: until the jobs have ended
    interval_s: float
    json_output: bool
    last: str | None = None  # a span that is over, instead of what happens from now on


def report(edges: Edges, request: Request) -> int:
    """Watches all jobs until they have ended, time is up or a signal comes; then writes the page.

    With `last` it does not watch, but asks the daemon what it has seen.

    Raises:
        OptionError: An interval or a length that makes no sense, or a file that cannot be written.
        DaemonUnavailable: None is running.
        NoSuchJob: No job ran in that time.
    """
    _check(request)
    if request.last is not None:
        return _report_last(edges, request, request.last)
    with _stopped_by_signals() as stop, open_daemon(edges.connect) as daemon:
        seen = int(daemon.query("events", count=1).get("last_seq") or 0)
        recording, note = watch(edges, daemon, request, stop)
        events = [] if note else _events(daemon, seen)
    if not recording.records:
        raise errors.NoSuchJob(
            "no job ran meanwhile, so there is nothing to report",
            asked="tide report",
            advice="start one first: `tide run -- python train.py &`; `tide report --last 1h` is "
            "of those that have ended",
        )
    if len(events) == _EVENTS_MAX:
        note = f"Only the last {_EVENTS_MAX} decisions are listed."
    _write(request.output, page(recording, events, note))
    return _tell(recording, request, len(events))


def _report_last(edges: Edges, request: Request, span: str) -> int:
    last_s = span_s(span)
    edges.ensure_daemon(core.runtime_dir())  # it ends when it has nothing to do, and leaves a file
    with open_daemon(edges.connect) as daemon:
        recording = remembered(daemon, edges.now(), last_s)
        if not recording.records:
            raise errors.NoSuchJob(
                "no job ran in that time, as far as the daemon remembers",
                asked=f"tide report --last {span}",
                advice="`tide report --last all` is all that it remembers",
            )
        events = [e for e in _events(daemon, 0) if float(e.get("time", 0)) >= recording.began]
    note = "The daemon looks once a second, and remembers less of what is long ago."
    _write(request.output, page(recording, events, note))
    return _tell(recording, request, len(events))


def watch(
    edges: Edges, daemon: Daemon, request: Request, stop: threading.Event
) -> tuple[Recording, str]:
    """Samples until there is a reason to end; the recording, and what is missing in it."""
    recording = Recording(edges.now(), request.interval_s)
    shown = sys.stderr.isatty() and not request.json_output
    while True:
        try:
            recording.add(edges.now(), daemon.query("status"))
        except (errors.DaemonUnavailable, errors.SuspendTimeout):
            if not recording.records:
                raise
            return recording, "The daemon went away, so this page ends there and has no decisions."
        if shown:
            _progress(recording)
        over = request.seconds is not None and recording.seconds >= request.seconds
        ended = request.seconds is None and recording.records and not recording.living()
        if over or ended or stop.wait(_pause_s(recording, request)):
            if shown:
                print("\r\x1b[K", end="", file=sys.stderr)
            return recording, ""


def _pause_s(recording: Recording, request: Request) -> float:
    """Until the next look: less at the very end of a given time."""
    if request.seconds is None:
        return recording.interval_s
    return min(recording.interval_s, max(request.seconds - recording.seconds, 0.0))


def _progress(recording: Recording) -> None:
    jobs = recording.living()
    words = "waiting for a job" if not recording.records else f"{jobs} running"
    line = f"tide report: {words}, {recording.seconds:.0f} s; Ctrl-C writes the page now"
    print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _events(daemon: Daemon, since: int) -> list[dict[str, Any]]:
    found: Sequence[dict[str, Any]] = daemon.query("events", since=since, count=_EVENTS_MAX).get(
        "events", []
    )
    return [event for event in found if int(event.get("seq", since + 1)) > since]


def _check(request: Request) -> None:
    if not math.isfinite(request.interval_s) or request.interval_s < _INTERVAL_MIN_S:
        raise errors.OptionError(
            f"an interval is at least {_INTERVAL_MIN_S} s",
            asked=f"--interval {request.interval_s}",
            advice="--interval 0.5",
        )
    if request.seconds is not None and not 0 < request.seconds < math.inf:
        raise errors.OptionError(
            "not a number of seconds above 0", asked=f"--for {request.seconds}", advice="--for 60"
        )
    if request.output.is_dir():
        raise errors.OptionError(
            "it is a folder", asked=f"--output {request.output}", advice="name a file in it"
        )
    with _written(request.output):  # now, not after an hour
        part = _part(request.output)
        part.touch()
        part.unlink()


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM end the watch, not the report."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _write(path: Path, document: str) -> None:
    """Whole or not at all."""
    part = _part(path)
    with _written(path):
        try:
            part.write_text(document, encoding="utf-8", errors="replace")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.OptionError(
            f"it cannot be written: {error.strerror}",
            asked=f"--output {path}",
            advice="name a file in a folder of your own",
        ) from error


def _tell(recording: Recording, request: Request, events: int) -> int:
    names = recording.names()
    if request.json_output:
        jobs = [{"job": name, **recording.figures(number)} for number, name in names.items()]
        exits.emit_json(
            {
                "file": str(request.output),
                "seconds": recording.seconds,
                "samples": len(recording.samples),
                "events": events,
                "jobs": jobs,
            }
        )
        return exits.OK
    jobs_word = "job" if len(names) == 1 else "jobs"
    print(
        text.fold(
            f"{request.output}: {len(names)} {jobs_word}, {recording.seconds:.0f} s, "
            f"{events} decisions; open it in a browser"
        )
    )
    return exits.OK
