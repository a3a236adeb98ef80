"""`scripts/bench NAME [--quick] [--json]`: measures one figure, or all of them, and shows it."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import sys
import time

from benchmarks import figure as figures

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = (
    "overhead",
    "switch",
    "sharing",
    "scaling",
    "suspend",
    "hook",
    "elastic",
    "pace",
    "coordinator",
    "simulator",
)


def measure(name: str, quick: bool) -> tuple[figures.Figure, str]:
    """Runs one figure; returns it and its line of JSON."""
    module = importlib.import_module(f"benchmarks.{name}")
    load = [round(value, 2) for value in os.getloadavg()]
    begin = time.monotonic()
    figure = module.measure(quick)
    seconds = time.monotonic() - begin
    figures.show(figure, seconds)
    return figure, figures.as_json(figure, seconds, quick, load)


def main() -> int:
    """Parses the command line; the last line printed is JSON when asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("name", choices=(*NAMES, "all"))
    parser.add_argument("--quick", action="store_true", help="at most three minutes a figure")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    names = NAMES if arguments.name == "all" else (arguments.name,)
    lines = [measure(name, arguments.quick)[1] for name in names]
    if arguments.name == "all":
        results = ROOT / "benchmarks" / "results"
        results.mkdir(exist_ok=True)
        latest = {entry["bench"]: entry for entry in map(json.loads, lines)}
        (results / "latest.json").write_text(json.dumps(latest, indent=1), encoding="utf-8")
        print(f"wrote {(results / 'latest.json').relative_to(ROOT)}")
    if arguments.json:
        print(lines[0] if len(lines) == 1 else json.dumps([json.loads(line) for line in lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
