"""A program may end while a daemon thread of it stands still in an iteration."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import cli_processes as processes
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.one_torch]
SCRIPT = """
import sys, threading
import torch, torchtide
torchtide.start(name="thread")
held = threading.Event()
torchtide.runtime.GATE.on_held = lambda on: held.set()
def train():
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in torchtide.iterations(range(1000)):
        model(torch.ones(4, 64)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 5:
            torchtide.pause()
threading.Thread(target=train, daemon=True).start()
assert held.wait(200)
sys.exit(7)
"""


def test_a_program_ends_with_its_own_code_while_a_thread_is_paused(tmp_path: pathlib.Path) -> None:
    environ = processes.environment(tmp_path, PYTHONPATH=processes.LEAN, TIDE_DAEMON="off")
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 7, ended.stderr
    assert "terminate" not in ended.stderr
