"""Gradients that leave while backward still runs give the bits of those that leave after it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import torch  # noqa: F401  (this test runs on every supported torch)
from cli_processes import LEAN

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "tests/integration/scripts/elastic_overlap.py")
STEPS, WORKERS, ACCUMULATE = 6, 5, 2


def trained(
    folder: pathlib.Path, size: int, touch: int = -1, overlap: bool = True
) -> list[dict[str, Any]]:
    """What each process of the job has said."""
    environment = os.environ | {
        "PYTHONPATH": LEAN,
        "TIDE_ELASTIC_OVERLAP": "on" if overlap else "off",
    }
    store = folder / f"store-{size}-{touch}-{overlap}"
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), str(size), str(store), str(touch)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = []
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        said.append(json.loads(out.splitlines()[-1]) | {"stderr": error})
    return said


@pytest.mark.parametrize("size", [2, 3])
def test_what_leaves_early_has_the_same_bits(size: int, tmp_path: pathlib.Path) -> None:
    (alone,) = trained(tmp_path, 1)
    early, late = trained(tmp_path, size), trained(tmp_path, size, overlap=False)
    assert {one["digest"] for one in early + late} == {alone["digest"]}
    assert alone["noise"] > 0 and {one["noise"] for one in early + late} == {alone["noise"]}
    assert sum(one["bodies"] for one in early) == STEPS * WORKERS * ACCUMULATE
    # Pieces with a layer that the last worker does not use are complete with run.step only.
    assert all(STEPS <= one["early"] < STEPS * one["pieces"] for one in early), early
    assert all(one["early"] == 0 for one in late)


def test_a_gradient_that_was_changed_after_it_left_repeats_the_step(tmp_path: pathlib.Path) -> None:
    (alone,) = trained(tmp_path, 1, touch=2)
    (untouched,) = trained(tmp_path, 1)
    assert alone["digest"] != untouched["digest"]
    touched = trained(tmp_path, 3, touch=2)
    assert {one["digest"] for one in touched} == {alone["digest"]}
    assert sum(one["bodies"] for one in touched) == (STEPS + 1) * WORKERS * ACCUMULATE
    # Two whole steps and the one that was repeated: nothing leaves early after that.
    assert all(3 <= one["early"] < 3 * one["pieces"] for one in touched), touched
    assert all("elastic_step_repeated" in one["stderr"] for one in touched)
