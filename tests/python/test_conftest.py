"""What all tests rely on, wherever they run."""

from __future__ import annotations

import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parents[1]
#: Sets tests up, then starts a child that interrupts itself as Ctrl-C would.
CHILD = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('ignored it')"
PARENT = f"""
import subprocess, sys
import conftest
conftest.pytest_configure()
sys.exit(subprocess.run([sys.executable, "-c", {CHILD!r}]).returncode != -2)
"""


def test_what_a_test_starts_can_be_interrupted_in_the_background_of_a_shell() -> None:
    command = ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, PARENT]
    ended = subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "ignored it" not in ended.stdout
