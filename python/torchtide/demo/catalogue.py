"""The demos that `tide demo` lists: a name, a line, and what runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torchtide.errors import OptionError


@dataclass(frozen=True)
class Demo:
    """One of them; `run` takes whether it shall be short and gives {"ok": bool, ...}."""

    name: str
    line: str
    run: Callable[[bool], dict[str, Any]]


def _quickstart(short: bool) -> dict[str, Any]:
    """The program of scripts/quickstart, in a process of its own: it changes its environment."""
    tree = Path(__file__).resolve().parents[3]
    if not (tree / "examples" / "char_gpt.py").is_file():
        raise OptionError(
            "its four scripts are in the source tree, and this is an installed package",
            asked="tide demo quickstart",
            advice="git clone the repository and run scripts/quickstart there, or "
            "`tide demo resize`",
        )
    words = ["--quick", *(["--until", "solo"] if short else [])]
    ended = subprocess.run([sys.executable, "-m", "torchtide.demo.quickstart", *words], check=False)
    return {"ok": ended.returncode == 0, "exit_code": ended.returncode}


def _resize(short: bool) -> dict[str, Any]:
    from torchtide.demo import resize

    return resize.run(short)


def _policies(short: bool) -> dict[str, Any]:
    from torchtide.demo import policies

    return policies.run(short)


ALL: Final = (
    Demo(
        "quickstart",
        "four jobs on a device too small for them; fewer steps than usual",
        _quickstart,
    ),
    Demo("resize", "processes of a training are added, killed, taken away: the same bits", _resize),
    Demo("policies", "one trace of 600 jobs under five cluster policies, simulated", _policies),
)
