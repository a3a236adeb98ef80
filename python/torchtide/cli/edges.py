"""The world outside the command line, in one value that tests replace."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from torchtide import _launch
from torchtide.cli.client import Connect, connect_core


def replace_process(path: str, argv: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Becomes the command: its process, terminal and session are ours, signals and codes its own.

    Python ignores SIGPIPE and SIGXFSZ for itself; a command must not inherit that.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(path, list(argv), dict(environ))


@dataclass(frozen=True)
class Edges:
    """What commands reach for: the daemon, the environment, the clock, the end of the process."""

    connect: Connect = connect_core
    ensure_daemon: Callable[..., _launch.Started] = _launch.ensure_daemon
    replace_process: Callable[[str, Sequence[str], Mapping[str, str]], NoReturn] = replace_process
    now: Callable[[], float] = time.time
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    folder: Path = field(default_factory=Path.cwd)
