"""What torchtide relies on, tried on this machine's GPU: `scripts/gpu-check` prints it.

In order: the driver's rules for physical memory (`rules`), experiments with the driver alone
(`driver`), with PyTorch and the hook (`job`), then benchmarks against what others offer (`bench`),
of the ways to resume (`resume`) and of several jobs on the device: sharing scratch (`lanes`) and
beside each other (`bench_jobs`).
Every part runs in a process of its own with a deadline, the whole within `BUDGET_SECONDS`; a part
for which no time is left is reported as not run. Nothing is left on the device.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from torchtide.gpu_check import rules

BUDGET_SECONDS = 460
SMALL_PATIENCE = 3
GOOD = ("pass", "not offered by this driver", "not on the phantom")


@dataclasses.dataclass(frozen=True)
class Part:
    """A process that prints one JSON line for each experiment."""

    module: str
    names: tuple[str, ...]
    seconds: float  # after which it is ended
    measures: bool = False  # only figures: what it does not find out is no failure


PARTS = (
    Part("driver", ("host_pages",), 30),
    Part("driver", ("handover",), 30),
    Part("job", ("limit", "mapped", "suspend", "graph"), 90),
    Part("job", ("bitwise",), 90),
    Part("job", ("cold",), 60),
    Part("driver", ("costs",), 40, measures=True),
    Part("job", ("waits", "shares"), 60, measures=True),
    Part("bench", ("switch",), 120, measures=True),
    Part("resume", ("resume",), 70),
    Part("bench", ("turns",), 140),
    Part("lanes", ("lanes",), 100),
    Part("bench", ("pass_on",), 90),
    Part("bench_jobs", ("pair",), 110, measures=True),
    Part("bench_jobs", ("trace",), 90, measures=True),
)


def check(
    library: str,
    *,
    small: bool = False,
    only: set[str] | None = None,
    after_part: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Everything, or the experiments named in `only`, as `--json` prints it.

    `after_part` is called with what is known so far, so that an interrupted check has not been in
    vain.
    """
    start = time.monotonic()
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return {"ok": False, "trouble": f"no CUDA driver: {error}"}
    result: dict[str, Any] = {"rules": [], "experiments": {}, "figures": {}}
    if only is None or "rules" in only:
        result["rules"] = rules.compare(library)
    for part in PARTS:
        names = [name for name in part.names if only is None or name in only]
        if not names:
            continue
        patience = SMALL_PATIENCE if small else 1  # a dry run may have a slow machine
        left = BUDGET_SECONDS * patience - (time.monotonic() - start)
        seconds = min(part.seconds * patience, left)
        answers = _run(part, names, library, small=small, seconds=seconds)
        result["figures" if part.measures else "experiments"] |= answers
        after_part(result)
    result["seconds"] = round(time.monotonic() - start, 1)
    result["ok"] = all(row["as_expected"] for row in result["rules"]) and all(
        answer["verdict"] in GOOD for answer in result["experiments"].values()
    )
    return result


def _run(
    part: Part, names: list[str], library: str, *, small: bool, seconds: float
) -> dict[str, Any]:
    """What the process of a part prints, by name."""
    if seconds < 5:
        return {name: {"verdict": "not run", "trouble": "no time was left"} for name in names}
    command = [sys.executable, "-m", f"torchtide.gpu_check.{part.module}", *names]
    command += ["--driver", library] if part.module != "job" else []
    command += ["--small"] if small else []
    trouble = ""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=seconds)
        trouble = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and the jobs that it has started
        output, _ = process.communicate()
        trouble = f"no answer in {seconds:.0f} s"
    answers: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith("{"):
            answers |= json.loads(line)
    for answer in answers.values():
        if answer.get("verdict") == "unfinished":
            answer["trouble"] = trouble
    return {name: answers.get(name, {"verdict": "fail", "trouble": trouble}) for name in names}


def text(result: dict[str, Any]) -> str:
    """The page for a reader."""
    if "trouble" in result:
        return f"FAIL  {result['trouble']}"
    all_rules = result["rules"]
    differ = [row for row in all_rules if not row["as_expected"]]
    lines = []
    if all_rules:
        verdict = "FAIL" if differ else "ok  "
        lines.append(f"{verdict}  {len(all_rules) - len(differ)} of {len(all_rules)} rules")
    lines += [
        f"      {row['rule']}: expected {row['expected']}, the driver says"
        f" {row.get('trouble') or row['answer']}"
        for row in differ
    ]
    for name, answer in [*result["experiments"].items(), *result["figures"].items()]:
        sign = "ok  " if answer["verdict"] in GOOD else "FAIL"
        lines.append(f"{sign}  {name}: {answer['verdict']}")
        lines += [f"      {key}: {value}" for key, value in answer.items() if key != "verdict"]
    verdict = "all as expected" if result["ok"] else "NOT all as expected"
    return "\n".join([*lines, f"{verdict}, after {result['seconds']} s"])
