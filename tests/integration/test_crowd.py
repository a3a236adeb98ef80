"""Fifty jobs of the core and six of torch on one device, some killed: nobody's numbers change."""

from __future__ import annotations

import json
import os
import pathlib
import random
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

SCRIPTS = pathlib.Path(__file__).parent / "scripts"
CLIENTS, TORCH_JOBS, KILLED = 50, 6, 10
DEADLINE_S = 300.0


def train(out: str) -> list[str]:
    """A torch job of a few seconds that writes its digests."""
    options = ["--width", "512", "--batch", "16", "--workers", "0", "--steps", "40"]
    return [sys.executable, str(SCRIPTS / "big_adam.py"), *options, "--out", out]


def status(environ: dict[str, str], folder: pathlib.Path) -> dict[str, Any]:
    ended = processes.tide(["top", "--once", "--json"], environ, folder)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def start(
    command: list[str], environ: dict[str, str], folder: pathlib.Path, log: str
) -> subprocess.Popen[bytes]:
    with (folder / log).open("wb") as file:
        return subprocess.Popen(command, env=environ, cwd=folder, stdout=file, stderr=file)


def test_fifty_clients_of_the_core_and_six_torch_jobs_share_a_device() -> None:
    seed = int(os.environ.get("TIDE_TEST_SEED", "50"))
    print(f"seed {seed}")
    source = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tide-crowd-") as path:
        folder = pathlib.Path(path)
        environ = processes.environment(folder, TIDE_CAPACITY="8GiB", PYTHONPATH=processes.LEAN)
        alone = {**environ, "TIDE_DISABLE": "1"}
        subprocess.run(train("alone.json"), env=alone, cwd=folder, check=True, timeout=240)
        open_file = folder / "open"
        open_file.touch()
        torch_jobs, clients = [], []
        try:
            for index in range(TORCH_JOBS):
                run = [*processes.TIDE, "run", "--name", f"torch{index}", "--"]
                command = run + train(f"torch{index}.json")
                torch_jobs.append(start(command, environ, folder, f"torch{index}.log"))
            for index in range(CLIENTS):
                command = [sys.executable, str(SCRIPTS / "core_client.py")]
                command += ["--seed", str(index), "--while-there", str(open_file)]
                own = {**environ, "TIDE_JOB_NAME": f"core{index}"}
                clients.append(start(command, own, folder, f"core{index}.log"))
            end = time.monotonic() + DEADLINE_S
            while processes.tide(["top", "--once", "--json"], environ, folder).returncode != 0:
                assert time.monotonic() < end, "no job has started the daemon"
            killed = set(source.sample(range(CLIENTS), KILLED))
            for index in sorted(killed):
                while source.random() > 0.2:
                    status(environ, folder)  # each question takes a random moment
                clients[index].send_signal(signal.SIGKILL)
                clients[index].wait(max(1.0, end - time.monotonic()))
            for index, job in enumerate(torch_jobs):
                ended = job.wait(max(1.0, end - time.monotonic()))
                assert ended == 0, (folder / f"torch{index}.log").read_text()
                if index == 0:  # all but those that were killed have been there all the time
                    assert sum(client.poll() is None for client in clients) == CLIENTS - KILLED
            open_file.unlink()
            for index, client in enumerate(clients):
                ended = client.wait(max(1.0, end - time.monotonic()))
                log = (folder / f"core{index}.log").read_text()
                assert ended == (-signal.SIGKILL if index in killed else 0), log
            expected = json.loads((folder / "alone.json").read_text())
            for index in range(TORCH_JOBS):
                assert json.loads((folder / f"torch{index}.json").read_text()) == expected
            after = status(environ, folder)
            while after["used"] != 0 or {job["state"] for job in after["jobs"]} != {"gone"}:
                assert time.monotonic() < end, after
                after = status(environ, folder)
        finally:
            for job in torch_jobs + clients:
                job.kill()
                job.wait()
            processes.tide(["shutdown"], environ, folder)
