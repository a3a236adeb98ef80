"""Starts `tide` as a process, as a user would: nothing of ours in its environment."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import torchtide
from torchtide import _core

#: The folder that holds the package under test.
SOURCE = pathlib.Path(torchtide.__path__[0]).parent
TIDE = (sys.executable, "-m", "torchtide")
#: PYTHONPATH of jobs that compile nothing: they start in half the time (tests/lean).
LEAN = f"{SOURCE}:{pathlib.Path(__file__).resolve().parents[1] / 'lean'}"


def environment(home: pathlib.Path, **variables: str) -> dict[str, str]:
    """A user's environment in which `import torchtide` works and nothing is shared with others."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TIDE_", "PYTHON", "XDG_"))}
    return {
        **clean,
        "HOME": str(home),
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(SOURCE),
        "TIDE_RUNTIME_DIR": str(home / "run"),
        **variables,
    }


def tide(
    arguments: Sequence[str], environ: dict[str, str], folder: pathlib.Path, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs `tide` to its end."""
    return subprocess.run(
        [*TIDE, *arguments],
        env=environ,
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def ask(environ: dict[str, str], what: str, **fields: Any) -> dict[str, Any] | None:
    """What the daemon answers to a query, without a process for it; None where none answers.

    For what is asked again and again: each `tide` takes a quarter of a second of a core, from the
    jobs that are waited for.
    """
    socket = pathlib.Path(environ["TIDE_RUNTIME_DIR"]) / "tided.sock"
    try:
        client = _core.Client(str(socket), 60)
        try:
            _, packed = client.request("Query", msgpack.packb({"what": what, **fields}), 60)
        finally:
            client.close()
    except _core.DaemonUnavailable:
        return None
    answer: dict[str, Any] = msgpack.unpackb(packed)
    return answer["data"] if answer["ok"] else None


def until(holds: Callable[[], Any], deadline_s: float, what: Callable[[], object]) -> None:
    """Asks until it holds, twenty times a second; `what` is told when it does not in time."""
    end, pause = time.monotonic() + deadline_s, threading.Event()
    while not holds():
        assert time.monotonic() < end, what()
        pause.wait(0.05)
