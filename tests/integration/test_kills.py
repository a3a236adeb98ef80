"""kill -9 at random points of an iteration: the neighbour's numbers and the ledger stay right."""

from __future__ import annotations

import json
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import cli_processes as processes
import pytest
import torch  # noqa: F401  (this test runs on every supported torch)

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.one_torch]

SCRIPT = str(pathlib.Path(__file__).parent / "scripts" / "big_adam.py")
KILLS = 4
STEPS = 600
DEADLINE_S = 120.0


def train(name: str, steps: int) -> list[str]:
    """The script that writes its digests to NAME.json; it draws its data first: 48 KiB a step."""
    options = ["--width", "768", "--batch", "16", "--workers", "0", "--steps", str(steps)]
    return [sys.executable, "-u", SCRIPT, *options, "--out", f"{name}.json"]


def await_step(job: subprocess.Popen[str], step: int) -> None:
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith(f"step {step} "):
            return
    raise AssertionError(f"the job ended before step {step}")


def device(environ: dict[str, str], folder: pathlib.Path) -> dict[str, Any]:
    """What `tide top` knows of the device."""
    ended = processes.tide(["top", "--once", "--json"], environ, folder)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_job_killed_at_any_moment_harms_nobody_and_holds_nothing() -> None:
    seed = int(os.environ.get("TIDE_TEST_SEED", "31"))
    print(f"seed {seed}")
    source = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tide-kill-") as path:
        folder = pathlib.Path(path)
        environ = processes.environment(folder, TIDE_CAPACITY="3GiB", PYTHONPATH=processes.LEAN)
        plain = {**environ, "TIDE_DISABLE": "1"}
        subprocess.run(
            train("alone", STEPS),
            env=plain,
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=240,
        )
        run = [*processes.TIDE, "run", "--name"]
        with (folder / "steady.log").open("w") as log:
            steady = subprocess.Popen(
                [*run, "steady", "--", *train("steady", STEPS)],
                env=environ,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        try:
            for kill in range(KILLS):
                command = [*run, f"victim{kill}", "--", *train("victim", 10 * STEPS)]
                with subprocess.Popen(
                    command, env=environ, cwd=folder, stdout=subprocess.PIPE, text=True
                ) as victim:
                    await_step(victim, source.randint(0, 12))
                    # Its next line or a random moment before it, whichever comes first.
                    select.select([victim.stdout], [], [], source.random() * 0.05)
                    victim.send_signal(signal.SIGKILL)
            assert steady.wait(DEADLINE_S) == 0, (folder / "steady.log").read_text()
            alone = json.loads((folder / "alone.json").read_text())
            assert json.loads((folder / "steady.json").read_text()) == alone
            gone = {f"victim{kill}" for kill in range(KILLS)}
            end = time.monotonic() + DEADLINE_S
            while True:  # the daemon may hear of our question before it hears of the last death
                after = device(environ, folder)
                states = {job["name"]: job["state"] for job in after["jobs"]}
                if after["used"] == 0 and {states[name] for name in gone} == {"gone"}:
                    break
                assert time.monotonic() < end, after
        finally:
            steady.kill()
            steady.wait()
            processes.tide(["shutdown"], environ, folder)
