"""A job that stands still inside its last iteration costs its lane a grace time, not the turn."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import threading

import cli_processes as processes
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.one_torch]
DEADLINE_S = 240
#: Bare steps leave an iteration open; then it waits for its input, as a server or a prompt does.
SCRIPT = """
import sys
import torch, torchtide
torchtide.start(name=sys.argv[1], lane=0)
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for line in sys.stdin:
    for _ in range(3):
        model(torch.ones(4, 64)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    print("trained", flush=True)
"""


class Job:
    def __init__(self, name: str, folder: pathlib.Path) -> None:
        # Kept low: it is waited for at each order but the first.
        environ = processes.environment(
            folder, PYTHONPATH=processes.LEAN, TIDE_DAEMON="off", TIDE_LANE_GRACE_MS="100"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, name],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._deadline = threading.Timer(DEADLINE_S, self._process.kill)
        self._deadline.start()

    def train(self) -> str:
        """A few steps; empty when it has been killed for taking too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def end(self) -> str:
        """What it has said on its stderr."""
        self._deadline.cancel()
        self._process.kill()
        return self._process.communicate()[1]


def test_jobs_that_stand_still_in_turn_are_left_behind_in_turn(tmp_path: pathlib.Path) -> None:
    """Also by one that was left behind itself: it has the old scratch mapped.

    Both say so, once a minute at most and otherwise nothing.
    """
    jobs = [Job(name, tmp_path) for name in ("one", "other")]
    try:
        for job in (*jobs, *jobs, *jobs):
            assert job.train() == "trained\n"
    finally:
        said = [job.end() for job in jobs]
    for text in said:
        for line in text.splitlines():
            assert line.startswith("torchtide: event=left_stuck_holder lane=0 pid="), text
        assert 'without a boundary"' in text
