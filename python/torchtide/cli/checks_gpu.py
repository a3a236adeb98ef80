"""The checks of `tide doctor --gpu`, which try the device in a process that ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

from torchtide.cli.checks import FAIL, OK, WARN, Finding

_LIMIT_S: Final = 300  # importing torch and starting CUDA
_WAYS: Final = {
    "table": "hooked: limits and moves by pages",
    "malloc": "hooked through cudaMalloc: limits and moves by whole segments",
    "pool": "a pool: limits and moves by whole segments, on one device a process",
    "fraction": "PyTorch's own fraction: no page can move",
}
_OFFERS: Final = {
    "shares": "device shares",
    "communicators": "communicators leave",
    "checkpoint": "driver's checkpoint",
}


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """What the probe has found, or why there is nothing to say."""
    name = "device hook"
    command = [sys.executable, "-m", "torchtide._gpu_probe"]
    try:
        done = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return [Finding(name, FAIL, f"no answer within {_LIMIT_S} s", "nvidia-smi")]
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [Finding(name, FAIL, f"exit code {done.returncode}: {said}", "nvidia-smi")]
    return findings(json.loads(lines[-1]))


def findings(found: Mapping[str, Any]) -> list[Finding]:
    """The probe's answer in words."""
    name = "device hook"
    if "problem" in found:
        return [Finding(name, WARN, found["problem"], "nvidia-smi")]
    way, reason = found["way"], found["way_reason"]
    said = f"{found['name']}: {_WAYS[way]}" + (f" ({reason})" if reason else "")
    fix = "docs/guides/gpu.md, Ways" if way in ("pool", "fraction") else ""
    told = [Finding(name, WARN if fix else OK, said, fix)]
    for key, title in _OFFERS.items():
        if key in found.get("offers", {}):
            told.append(Finding(title, OK, found["offers"][key]))
    return told
