"""What a job says in its own terminal: that it is paused, that it goes on, what it could not do.

One logger, `torchtide`. Without any handler Python writes warnings to stderr; where a progress bar
of tqdm is being drawn there, the line goes above it. A stderr that is closed, or that nobody reads,
gets nothing: a job never waits for it.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from typing import Any

from torchtide import _core
from torchtide._choices import chosen

_LOG = logging.getLogger("torchtide")
_LEVELS = {"warning": logging.WARNING, "error": logging.ERROR}


def install() -> None:
    """Has warnings of the library's own threads kept for `tell`; obeys the option `log`.

    Raises:
        OptionError: `log` is none of its choices.
    """
    wanted = chosen("log", ("warning", "error", "off"))
    if wanted != "warning":  # else the level is the program's
        _LOG.setLevel(_LEVELS.get(wanted, logging.CRITICAL + 1))
    _core.keep_log()


def tell() -> None:
    """Says the warnings that have come since the last call, in any rank.

    They come from threads and from under locks that must not wait for Python, so a thread of the
    program's own asks for them: at boundaries, while it waits for a turn, and when the job ends.
    """
    for level, line in _core.take_log():
        _show(_LEVELS[level], line)


class PauseNotice:
    """Tells the beginning and the end of a pause; silent in ranks other than the first."""

    def __init__(self) -> None:
        self._since: float | None = None

    def paused(self) -> None:
        """Called while the next iteration waits, once a pause."""
        self._since = time.monotonic()
        name = _core.name()
        out = _core.format_bytes(int(_core.report()["demoted"]))
        say(
            f"{name} is paused, {out} are out of memory; `tide resume {name}` continues it, "
            f"`tide explain {name}` says who paused it"
        )

    def running(self) -> float | None:
        """Called when an iteration has begun; the seconds of the pause before it, if any."""
        if self._since is None:
            return None
        took_s, self._since = time.monotonic() - self._since, None
        say(f"{_core.name()} goes on after {took_s:.1f} s")
        return took_s


def say(words: str) -> None:
    """One line for whoever watches this process."""
    if os.environ.get("RANK", "0") == "0":
        _show(logging.WARNING, words)


def _show(level: int, words: str) -> None:
    if not _LOG.isEnabledFor(level):
        return
    bar: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if _LOG.hasHandlers():
        _LOG.log(level, "torchtide: %s", words)
    elif not _takes_a_line(sys.stderr):
        return
    elif bar is not None and getattr(bar, "_instances", None):
        bar.write(f"torchtide: {words}", file=sys.stderr)
    else:
        _LOG.log(level, "torchtide: %s", words)


def _takes_a_line(stream: Any) -> bool:
    """Whether a line can be written at once: a pipe that is ready has room for one."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):  # None, of a notebook, closed
        return stream is not None and not getattr(stream, "closed", False)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return [event for _, event in poll.poll(0)] == [select.POLLOUT]
