"""Starts `tide` as a process, as a user would: nothing of ours in its environment."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import torchtide

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
