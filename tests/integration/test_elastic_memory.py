"""Logical workers of one process share its scratch: more of them take no more memory."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from elastic_harness import DEADLINE_S, ROOT, TIDE, without_daemon

SCRIPT = str(ROOT / "tests/integration/scripts/elastic_flat.py")
MIB = 1 << 20
#: Bytes of the gradients of the script's model.
GRADIENTS = 4 * (64 * 4096 + 4096 + 4096 * 64 + 64)


@pytest.mark.slow
@pytest.mark.one_torch
def test_memory_is_flat_from_one_to_eight_logical_workers(tmp_path: pathlib.Path) -> None:
    def held(workers: int) -> dict[str, Any]:
        folder = tmp_path / str(workers)
        folder.mkdir()
        command = [*TIDE, "run", "--", sys.executable, SCRIPT, str(workers)]
        done = subprocess.run(
            command,
            env=without_daemon(folder),
            check=True,
            timeout=DEADLINE_S,
            capture_output=True,
            text=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    one = held(1)
    assert one["private_scratch"] > 60 * MIB, "the activations of one worker's batch"
    for workers in (2, 4, 8):
        report = held(workers)
        # One set of activations, whoever of the workers has its turn.
        assert abs(report["private_scratch"] - one["private_scratch"]) < 8 * MIB, workers
        # What grows is a buffer of gradients for each level of the tree of sums.
        levels = workers.bit_length() - 1
        assert report["peak"] - one["peak"] < (levels + 1) * GRADIENTS + 12 * MIB, workers
