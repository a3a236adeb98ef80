"""Starts `tide run --processes` on the example, reads its steps and asks `tide` about it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from cli_processes import LEAN

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = str(ROOT / "examples/elastic_digits.py")
TIDE = [sys.executable, "-m", "torchtide"]
DEADLINE_S = 300.0
PACED = str(ROOT / "tests/integration/scripts/elastic_paced.py")


def without_daemon(folder: pathlib.Path) -> dict[str, str]:
    """An environment with a runtime directory of its own."""
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    return os.environ | {
        "PYTHONPATH": LEAN,
        "TIDE_RUNTIME_DIR": str(runtime),
        "TIDE_DAEMON": "off",
    }


@contextlib.contextmanager
def started(environment: dict[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*TIDE, "run", *words], env=environment, stdout=subprocess.PIPE, text=True
    ) as job:
        try:
            yield job
        finally:
            job.terminate()


def tide(environment: dict[str, str], *words: str) -> tuple[int, dict[str, Any]]:
    result = subprocess.run(
        [*TIDE, *words, "--json"], env=environment, capture_output=True, text=True, check=False
    )
    return result.returncode, json.loads(result.stdout)


def await_step(job: subprocess.Popen[str], step: int) -> None:
    """Reads the job's output until that step; training goes on meanwhile."""
    end = time.monotonic() + DEADLINE_S
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith("step ") and int(line.split()[1]) >= step:
            return
        assert time.monotonic() < end
    raise AssertionError("the job ended before that step")


def await_size(job: subprocess.Popen[str], size: int) -> None:
    """Reads the job's output until it trains in so many processes."""
    end = time.monotonic() + DEADLINE_S
    assert job.stdout is not None
    for line in job.stdout:
        if f" processes {size} " in line:
            return
        assert time.monotonic() < end
    raise AssertionError("the job ended before that")
