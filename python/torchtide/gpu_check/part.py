"""The command line of a part of the GPU check: `python -m torchtide.gpu_check.MODULE NAME`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any


def main(program: str, runs: Mapping[str, Callable[..., dict[str, Any]]]) -> int:
    """Runs one of `runs`, which is called with `small`, and prints its answer as a JSON line."""
    parser = argparse.ArgumentParser(prog=f"gpu-check {program}")
    parser.add_argument("name", choices=tuple(runs))
    parser.add_argument("--driver", help="not used: PyTorch finds the driver")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    answer = runs[arguments.name](small=arguments.small)
    print(json.dumps({arguments.name: answer}), flush=True)
    return 0
