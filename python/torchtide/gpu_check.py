"""What torchtide relies on, tried on this machine's GPU: `scripts/gpu-check` prints it.

In order: the driver, its rules for physical memory (`gpu_rules`), what the calls cost, and a job
whose memory is hooked, limited, suspended and resumed. Each part runs in a process of its own, ends
by itself and leaves the device as it was.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from torchtide import gpu_rules

SIZES_MIB = (2, 20, 64)
REPEATS = 50
PART_SECONDS = 120

JOB = """
import json, time, torch, torchtide.cuda as cuda
MIB = 1 << 20
out = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(0)}
out["enable"] = cuda.enable("gpu-check")
host = torch.randint(0, 256, (256 * MIB,), dtype=torch.uint8)
block = host.cuda()
if cuda.enabled():
    figures = cuda.report()
    out["figures_agree"] = figures["reserved"] == figures["torch_reserved"]
    cuda.set_limit("512MiB")
    try:
        torch.empty(600 * MIB, dtype=torch.uint8, device="cuda")
        out["limit_felt"] = False
    except torch.OutOfMemoryError:
        out["limit_felt"] = True
    cuda.set_limit(None)
    start = time.perf_counter()
    out["suspended_bytes"] = cuda.suspend()
    middle = time.perf_counter()
    out["bytes_left_on_device"] = cuda.report()["device"]
    cuda.resume()
    out["suspend_s"], out["resume_s"] = middle - start, time.perf_counter() - middle
    cuda.keep_cold([block])
    try:
        out["mapped_host_memory"] = cuda.set_limit("64MiB")["status"]
    except cuda.LimitConflict as conflict:
        out["mapped_host_memory"] = str(conflict)
    cuda.set_limit(None)
    out["values_exact"] = torch.equal(block.cpu(), host)
print(json.dumps(out))
"""


def costs(library: str) -> dict[str, dict[str, float]]:
    """Median microseconds of each call, by size."""
    sandbox = gpu_rules.Sandbox(library)
    table: dict[str, dict[str, float]] = {}
    for mib in SIZES_MIB:
        pages = mib * gpu_rules.MIB / sandbox.page
        address = ctypes.c_uint64()
        sandbox.driver.cuMemAddressReserve(
            ctypes.byref(address), sandbox.size(pages), sandbox.size(0), ctypes.c_uint64(0),
            ctypes.c_uint64(0),
        )  # fmt: skip
        sandbox.base = address.value
        handle = ctypes.c_uint64()
        steps: dict[str, Callable[[], int]] = {
            "create": functools.partial(sandbox.create, pages, handle),
            "map": functools.partial(sandbox.map, 0, pages, handle),
            "set_access": functools.partial(sandbox.access, 0, pages),
            "unmap": functools.partial(sandbox.unmap, 0, pages),
            "release": functools.partial(sandbox.release, handle),
        }
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(REPEATS):
            for name, step in steps.items():
                start = time.perf_counter()
                if step() != gpu_rules.OK:
                    raise RuntimeError(f"{name} of {mib} MiB failed")
                times[name].append((time.perf_counter() - start) * 1e6)
        sandbox.free_address(0, pages)
        table[f"{mib} MiB"] = {
            name: round(statistics.median(taken), 1) for name, taken in times.items()
        }
    return table


def _part(command: list[str]) -> dict[str, Any]:
    """The JSON that a process prints, or what went wrong."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PART_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"trouble": f"no answer in {PART_SECONDS} s"}
    if done.returncode != 0:
        return {"trouble": (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def check(library: str) -> dict[str, Any]:
    """Everything, as `--json` prints it."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return {"ok": False, "trouble": f"no CUDA driver: {error}"}
    me = [sys.executable, "-m", "torchtide.gpu_check", "--driver", library]
    rules = gpu_rules.compare(library)
    job = _part([sys.executable, "-c", JOB])
    result: dict[str, Any] = {"rules": rules, "costs_us": _part([*me, "--costs"]), "job": job}
    sound = job.get("enable") == "hooked" and all(
        job.get(key) for key in ("figures_agree", "limit_felt", "values_exact")
    )
    result["ok"] = (
        sound
        and all(row["as_expected"] for row in rules)
        and "trouble" not in result["costs_us"]
        and job.get("bytes_left_on_device") == 0
    )
    return result


def text(result: dict[str, Any]) -> str:
    """The page for a reader."""
    if "trouble" in result:
        return f"FAIL  {result['trouble']}"
    rules = result["rules"]
    differ = [row for row in rules if not row["as_expected"]]
    verdict = "FAIL" if differ else "ok  "
    lines = [f"{verdict}  {len(rules) - len(differ)} of {len(rules)} rules"]
    lines += [
        f"      {row['rule']}: expected {row['expected']}, the driver says"
        f" {row.get('trouble') or row['answer']}"
        for row in differ
    ]
    lines += [f"      {size}: {figures} us" for size, figures in result["costs_us"].items()]
    lines += [f"      {name}: {value}" for name, value in result["job"].items()]
    return "\n".join([*lines, "all as expected" if result["ok"] else "NOT all as expected"])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.split("\n")[0])
    parser.add_argument("--driver", default="libcuda.so.1", help="the driver's library")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures there")
    parser.add_argument("--costs", action="store_true", help="only measure what calls cost")
    arguments = parser.parse_args()
    if arguments.costs:
        print(json.dumps(costs(arguments.driver)))
        return 0
    result = check(arguments.driver)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(text(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
