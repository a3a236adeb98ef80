"""What a benchmark hands back and how it is shown: values, baselines, reasons, versions."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

from benchmarks.estimates import Estimate

ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass
class Figure:
    """Numbers of one benchmark; `why` has a reason for each value that is None."""

    name: str
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    baselines: dict[str, Any] = dataclasses.field(default_factory=dict)
    why: dict[str, str] = dataclasses.field(default_factory=dict)
    setting: dict[str, Any] = dataclasses.field(default_factory=dict)

    def put(self, key: str, estimate: Estimate) -> None:
        """Stores a median and its interval as `key` and `key_ci95`."""
        self.values[key] = estimate.value
        self.values[f"{key}_ci95"] = estimate.interval

    def missing(self, key: str, reason: str) -> None:
        """Says that `key` could not be measured, and why."""
        self.values[key] = None
        self.why[key] = reason

    def require(self, keys: tuple[str, ...], reason: str) -> None:
        """Marks those of `keys` that nobody has put as missing for `reason`."""
        for key in keys:
            if key not in self.values:
                self.missing(key, reason)


def _output(*command: str) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def versions() -> dict[str, Any]:
    """Of everything a reader needs to repeat the run."""
    commit = _output("git", "rev-parse", "--short", "HEAD")
    dirty = bool(_output("git", "status", "--porcelain"))
    return {
        "torchtide": commit + ("+changes" if dirty else ""),
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def as_json(figure: Figure, seconds: float, quick: bool, load: list[float]) -> str:
    """The one line of the contract."""
    return json.dumps(
        {
            "bench": figure.name,
            "values": figure.values,
            "baselines": figure.baselines,
            "why": figure.why,
            "setting": figure.setting | {"quick": quick, "load_average": load},
            "seconds": round(seconds, 1),
            "versions": versions(),
        }
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{key}:{_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)


def show(figure: Figure, seconds: float) -> None:
    """The table for people."""
    print(
        f"\n{figure.name}: {seconds:.0f} s; "
        + ", ".join(f"{k}={_shown(v)}" for k, v in figure.setting.items())
    )
    for title, table in (("value", figure.values), ("baseline", figure.baselines)):
        for key, value in table.items():
            if key.endswith("_ci95"):
                continue
            interval = table.get(f"{key}_ci95")
            note = f"  95 % {_shown(interval)}" if interval else ""
            note += f"  ({figure.why[key]})" if value is None and key in figure.why else ""
            print(f"  {title:8s} {key:34s} {_shown(value):>12s}{note}")
    sys.stdout.flush()
