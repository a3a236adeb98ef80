"""Elastic jobs in Ray actors, with a Ray of the test's own: the bits of one process."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
from elastic_harness import DEADLINE_S, ROOT, without_daemon

pytest.importorskip("torch")
pytest.importorskip("ray")

SCRIPT = ROOT / "tests/integration/scripts/elastic_ray.py"


@pytest.mark.slow
def test_actors_are_resized_and_killed_and_give_the_bits_of_one_process(
    tmp_path: pathlib.Path,
) -> None:
    environment = without_daemon(tmp_path)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    out, pipe = tmp_path / "out.json", tmp_path / "go"
    os.mkfifo(pipe)
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(out), str(pipe)], env=environment, timeout=DEADLINE_S,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    found = json.loads(out.read_text())
    alone = found["alone"]
    assert len(set(alone.values())) == len(alone) == 24
    assert (found["name"], found["first"], found["sizes"]) == ("points", 3, [1, 3])
    assert "processes; it stays so" in found["too_large"]
    assert found["moved"], "a process is left at the end"
    for digests in found["moved"]:
        assert digests["24"] == alone["24"]
        assert digests.items() <= alone.items()
    assert found["after_kill"] >= 3
    assert "this cannot be trained" in found["broken"]
    assert "ended with code 143" in found["stopped"]
    assert list((tmp_path / "run/elastic").iterdir()) == []
