"""What a job says in its own terminal: that it is paused, and that it goes on.

One logger, `torchtide`. Without any handler Python writes warnings to stderr; where a progress bar
of tqdm is being drawn there, the line goes above it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

from torchtide import _core

_LOG = logging.getLogger("torchtide")


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
    if os.environ.get("RANK", "0") != "0":
        return
    bar: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if bar is not None and getattr(bar, "_instances", None) and not _LOG.hasHandlers():
        bar.write(f"torchtide: {words}", file=sys.stderr)
    else:
        _LOG.warning("torchtide: %s", words)
