"""A program may end while a daemon thread of it stands in any call that waits or computes."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import cli_processes as processes
import pytest

SCRIPT = pathlib.Path(__file__).parent / "scripts/interpreter_end.py"


@pytest.mark.parametrize("call", ["client", "exchange", "simulation", "python_policy", "checksum"])
def test_a_program_ends_with_its_own_code_while_a_thread_is_in(
    call: str, tmp_path: pathlib.Path
) -> None:
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), call, str(tmp_path)],
        env=processes.environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (7, "the end\n"), ended.stderr
