"""Command line of the GPU check."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

from torchtide.gpu_check import check


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="gpu-check", description=(check.__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--driver", default="libcuda.so.1", help="the driver's library")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures there")
    parser.add_argument("--small", action="store_true", help="sizes for the phantom GPU")
    parser.add_argument("--only", action="append", help="this experiment (may be repeated)")
    arguments = parser.parse_args()
    only = set(arguments.only) if arguments.only else None

    def write(result: dict[str, Any]) -> None:
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")

    result = check.check(arguments.driver, small=arguments.small, only=only, after_part=write)
    write(result)
    print(check.text(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
