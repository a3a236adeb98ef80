"""The page of what runs where, from recorded results; see scripts/compatibility.

A row counts only tests that were run: a file that was not selected leaves the result of the run
before it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from junit_totals import outcome

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs/reference/compatibility.json"
PAGE = ROOT / "docs/reference/compatibility.md"
RESULTS = ROOT / "build/test-results"

#: Row of the page -> the test files behind it.
AREAS = {
    "Memory and limits of a job on the CPU": ("tests/python/test_memory_torch.py",),
    "Iterations seen in unchanged loops": ("tests/python/test_gate_loops.py",),
    "`tide run`: scripts, shells, launchers": ("tests/integration/test_run_hook.py",),
    "Ranks of torchrun and of spawn": ("tests/integration/test_run_ranks.py",),
    "Signals of a scheduler": ("tests/integration/test_on_signal.py",),
    "Elastic training": ("tests/python/test_elastic.py",),
    "Elastic training: data and checkpoints": (
        "tests/python/test_elastic_checkpoint.py",
        "tests/python/test_elastic_data.py",
    ),
    "TensorBoard markers": ("tests/python/test_tracking.py",),
    "Device memory, on the phantom GPU": ("tests/cuda/test_hook.py", "tests/cuda/test_job.py"),
}
#: A row that no run has been recorded of; the page says so.
NOT_YET = "not recorded yet"
#: What each interpreter says of itself, without importing torch.
ASK = """
import importlib.metadata, json, platform
print(json.dumps({"torch": importlib.metadata.version("torch"), "python": platform.python_version(),
    "libc": " ".join(platform.libc_ver()), "machine": platform.machine()}))
"""


def versions() -> list[str]:
    """The versions of torch that `scripts/test --torch all`, and so CI, runs on."""
    text = (ROOT / "scripts/test").read_text(encoding="utf-8")
    found = re.search(r"^\s*all\) versions=\(([^)]*)\)", text, re.M)
    if found is None or "--torch all" not in (ROOT / ".ci/run").read_text(encoding="utf-8"):
        raise SystemExit("compatibility: scripts/test or .ci/run no longer say what CI runs on")
    return found[1].split()


def pinned(version: str) -> str:
    """The exact torch that `scripts/setup` installs for one of `versions`."""
    for path in (ROOT / "scripts").glob("requirements*.txt"):
        found = re.search(r"^torch==(\S+)", path.read_text(encoding="utf-8"), re.M)
        if found and found[1].startswith(f"{version}."):
            return found[1]
    raise SystemExit(f"compatibility: no requirements file pins torch {version}")


def counted(xml: pathlib.Path) -> dict[str, dict[str, int]]:
    """Test file -> how many of its tests passed, failed and were skipped."""
    found: dict[str, dict[str, int]] = {}
    for case in ElementTree.parse(xml).iter("testcase"):
        words = (case.get("classname") or "").split(".")
        names = ["/".join(words[: n + 1]) + ".py" for n in range(len(words))]
        path = next((name for name in names if (ROOT / name).is_file()), None)
        if path is not None:
            kinds = found.setdefault(path, {"passed": 0, "failed": 0, "skipped": 0})
            kinds[outcome(case)] += 1
    return found


def record() -> None:
    """Takes over the results of the last `scripts/test`, file by file."""
    kept = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    files = {path for paths in AREAS.values() for path in paths}
    for version in versions():
        parts = sorted(RESULTS.glob(f"pytest-{version}*.xml"))
        if not parts:
            continue
        entry = kept.setdefault(version, {"files": {}})
        venv = ROOT / (".venv" if version == "2.15" else f".venv-{version}")
        asked = subprocess.run([venv / "bin/python", "-c", ASK], capture_output=True, check=True)
        entry["on"] = json.loads(asked.stdout)
        newest = max(part.stat().st_mtime for part in parts)
        entry["date"] = datetime.date.fromtimestamp(newest).isoformat()
        results = {path: kinds for part in parts for path, kinds in counted(part).items()}
        entry["files"].update({path: results[path] for path in sorted(files & set(results))})
        entry["files"] = {path: entry["files"][path] for path in sorted(entry["files"])}
    RECORD.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def cell(entry: dict[str, dict[str, dict[str, int]]], paths: tuple[str, ...]) -> str:
    """What one version has to say to one row."""
    results = [entry["files"][path] for path in paths if path in entry["files"]]
    sums = {kind: sum(each[kind] for each in results) for kind in ("passed", "failed", "skipped")}
    if len(results) < len(paths) or not sums["passed"] + sums["failed"]:
        return NOT_YET
    word = f"**{sums['failed']} failed**, " if sums["failed"] else ""
    left_out = f", {sums['skipped']} skipped" if sums["skipped"] else ""
    return f"{word}{sums['passed']} passed{left_out}"


def page() -> str:
    """The whole page."""
    kept = json.loads(RECORD.read_text(encoding="utf-8"))
    columns = [version for version in versions() if version in kept]
    python = re.search(r'requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text())
    lines = [
        "# Compatibility",
        "",
        "What tests ended with, and where; written by `scripts/compatibility` from recorded "
        "results of the tests that continuous",
        "integration runs. A figure is a number of tests; a skipped one had a reason, which the "
        "run printed. Rows that no run has",
        "been recorded of say so: `scripts/test --torch all && scripts/compatibility record`.",
        "",
        f"| | {' | '.join('torch ' + kept[column]['on']['torch'] for column in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for area, paths in AREAS.items():
        lines.append(f"| {area} | {' | '.join(cell(kept[c], paths) for c in columns)} |")
    ran = [
        f"torch {c}: {kept[c]['date']}, Python {kept[c]['on']['python']}, {kept[c]['on']['libc']}, "
        f"Linux on {kept[c]['on']['machine']}"
        for c in columns
    ]
    lines += ["", *(f"- {line}" for line in ran), ""]
    lines += [
        "## Elsewhere",
        "",
        "| what | how far it goes |",
        "|---|---|",
        f"| Python | {python[1] if python else ''} is accepted; tested: see above. The extension "
        "modules are built for the Python that builds them |",
        "| torch between these versions | each minor version needs an adapter of its own; a job on "
        "one without is not hooked, and says so |",
        "| Linux, x86-64 | tested. The wheel's tag names the oldest glibc that it runs with "
        "([wheel and torch](../decisions/0004-wheel-and-torch.md)) |",
        "| Linux, arm64 | not tested |",
        "| macOS, Windows | not supported: the memory manager needs Linux |",
        "| GPUs | above, the phantom stands in for the driver; what was measured on a real one "
        "is in [the guide](../guides/gpu.md#measured) |",
        "| devices other than CUDA's | not supported: their memory stays PyTorch's own |",
        "",
    ]
    return "\n".join(lines)


def stale() -> list[str]:
    """Why the page must be written or the tests run again; empty when it is up to date."""
    kept = json.loads(RECORD.read_text(encoding="utf-8"))
    found = [f"torch {v} is run by CI and was not recorded" for v in versions() if v not in kept]
    found += [
        f"torch {v} was recorded and is not run any more" for v in kept if v not in versions()
    ]
    for version in set(versions()) & set(kept):
        on = kept[version]["on"]["torch"].split("+")[0]
        if on != pinned(version):
            found.append(f"torch {on} was recorded, {pinned(version)} is installed now")
        for area, paths in AREAS.items():
            missing = [path for path in paths if not (ROOT / path).is_file()]
            found += [f"{path} of {area!r} is gone" for path in missing]
            if "failed" in cell(kept[version], paths):
                found.append(f"torch {version}: {area!r} did not pass")
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        found.append("the page is not what was recorded: scripts/compatibility write")
    return found


def main() -> int:
    """Records, writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("record", "write", "check"))
    what = parser.parse_args().what
    if what == "record":
        record()
    if what != "check":
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    for reason in stale():
        print(f"compatibility: {reason}", file=sys.stderr)
    return 1 if stale() else 0


if __name__ == "__main__":
    sys.exit(main())
