"""The script for a machine with a GPU does not fail for a silly reason: a dry run here."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import phantom_gpu
import pytest

pytestmark = pytest.mark.slow

TORCH = importlib.metadata.version("torch")


@pytest.mark.skipif(TORCH.startswith("2.11"), reason="once is enough: with the default torch")
def test_a_dry_run_finds_everything_as_expected(
    zygote: phantom_gpu.Zygote, tmp_path: pathlib.Path
) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [phantom_gpu.ROOT / "scripts" / "gpu-check", "--dry-run", "--json", figures],
        env=os.environ | {"TIDE_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no figure below is a GPU's" in done.stdout
    result = json.loads(figures.read_text())
    assert result["ok"]
    experiments = result["experiments"]
    assert {"limit", "suspend", "bitwise", "cold", "resume", "turns", "pass_on", "lanes"} <= (
        experiments.keys()
    )
    assert experiments["resume"]["layers"]["waits"] > 0 == experiments["resume"]["whole"]["waits"]
    assert result["experiments"]["turns"]["failed_without"] == 1
    shared = result["experiments"]["lanes"]
    assert shared["lanes"]["shared"] > 0 == shared["turns"]["shared"]
    assert len(result["rules"]) >= 30
    figures = result["figures"]
    assert [one["why"] for one in figures["switch"]["deep_pause"]] == ["", ""], figures["switch"]
    predicted = figures["switch"]["predicted_over_actual"]
    assert all(len(ratios) == 4 and min(ratios) > 0 for ratios in predicted.values()), predicted
    assert figures["switch"]["checkpoint_hooked"]["verdict"] == "pass", figures["switch"]
    assert figures["shares"]["ms"].keys() == {"32", "64", "96", "132"}, figures["shares"]
    assert figures["pair"]["verdict"] == figures["trace"]["verdict"] == "pass", figures
    for protocol in ("bursts", "requests"):
        assert {"plain", "pace", "turns"} <= figures["pair"][protocol].keys()
    assert figures["trace"]["mean_s"].keys() == {"fifo", "plain", "fair", "srtf"}
