"""A machine of a test: real jobs, the real daemon, and the commands as a user types them."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import cli_processes as processes

DEADLINE_S = 90.0

TRAIN = """
import torch
torch.set_num_threads(1)
linear = torch.nn.Linear
model = torch.nn.Sequential(linear(1024, 1024), torch.nn.ReLU(), linear(1024, 1024))
optimizer = torch.optim.Adam(model.parameters())
while True:
    batch = torch.randn(64, 1024)
    loss = (model(batch) - batch).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


class Machine:
    """A daemon of its own in a folder that has `train.py`, which trains until it is ended."""

    def __init__(self, folder: pathlib.Path, **variables: str) -> None:
        self.folder = folder
        self.environ = processes.environment(folder, **{"PYTHONPATH": processes.LEAN, **variables})
        self.jobs: list[subprocess.Popen[bytes]] = []
        (folder / "train.py").write_text(TRAIN)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`tide run` in the background."""
        with (self.folder / "log").open("ab") as log:
            job = subprocess.Popen(
                [*processes.TIDE, "run", *arguments],
                env=self.environ,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        self.jobs.append(job)
        return job

    def tide(self, *arguments: str, code: int = 0) -> str:
        """Output of a command that must end with `code`."""
        ended = processes.tide(arguments, self.environ, self.folder)
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def record(self, name: str = "train") -> dict[str, Any]:
        """A job as `ps --json` has it; empty when there is none."""
        answer = processes.ask(self.environ, "ps") or {"jobs": []}
        return next((job for job in answer["jobs"] if job["name"] == name), {})

    def until(self, condition: Callable[[dict[str, Any]], bool], name: str = "train") -> None:
        """Asks again until the record of a job is as it should be."""

        def holds() -> bool:
            record = self.record(name)
            return bool(record) and condition(record)

        def told() -> str:
            return f"{name} is {self.record(name)}\n{(self.folder / 'log').read_text()}"

        processes.until(holds, DEADLINE_S, told)

    def daemon_pid(self) -> int:
        """Of the daemon that answers here."""
        return int((self.folder / "run" / "tided.pid").read_text())

    def close(self) -> None:
        """Ends all jobs and the daemon."""
        for job in self.jobs:
            job.kill()
            job.wait()
        processes.tide(["shutdown"], self.environ, self.folder)
