"""Checks that run in a process of their own, many behind one import of torch.

A script decorates functions with `@check` and ends with `checks.main()`; a test file runs the
script once with `run` and asks how each of its checks ended.
"""

from __future__ import annotations

import ast
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = HERE / "scripts"
SOURCE = HERE.parent.parent / "python"
#: A process that hangs ends; generous, as the machine may be busy with other builds.
DEADLINE_S = 400
_REGISTERED: dict[str, Callable[[], None]] = {}


class Skip(Exception):  # noqa: N818
    """Raised by a check that this machine or torch cannot carry out."""


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Registers a check of a script."""
    _REGISTERED[function.__name__] = function
    return function


def main() -> None:
    """Runs the registered checks, or those named as arguments; writes a line for each."""
    out = pathlib.Path(os.environ["CHECKS_OUT"])
    for name, function in _REGISTERED.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        ended, begin = "ok", time.monotonic()
        try:
            function()
        except Skip as reason:
            ended = f"skip: {reason}"
        except Exception:
            ended = traceback.format_exc()
        line = {"check": name, "ended": ended, "seconds": round(time.monotonic() - begin, 3)}
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")


def names(script: str) -> list[str]:
    """The checks of a script, read without running it."""
    tree = ast.parse((SCRIPTS / script).read_text(encoding="utf-8"))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(mark, ast.Name) and mark.id == "check" for mark in node.decorator_list)
    ]


def environment(folder: pathlib.Path, **variables: str) -> dict[str, str]:
    """An environment whose runtime and spill folders are its own and that has no daemon."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TIDE_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join((str(SOURCE), str(HERE))),
        "OMP_NUM_THREADS": "1",
        "TIDE_DAEMON": "off",
        "TIDE_RUNTIME_DIR": str(folder / "run"),
        "TIDE_SPILL_DIR": str(folder / "spill"),
        **variables,
    }


def python(
    folder: pathlib.Path, code: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a few lines of Python to their end."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def run(script: str, folder: pathlib.Path, *only: str, **variables: str) -> dict[str, str]:
    """Runs the checks of a script; a check that is missing in the result never ended."""
    out = folder / "ended.jsonl"
    process = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *only],
        env=environment(folder, CHECKS_OUT=str(out), **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    lines = out.read_text().splitlines() if out.exists() else []
    ended = {record["check"]: record["ended"] for record in map(json.loads, lines)}
    told = f"the process ended with {process.returncode}\n{process.stdout}{process.stderr}"
    if process.returncode != 0:
        ended["exit"] = told
    return {**{name: told for name in names(script) if not only or name in only}, **ended}


def verify(ended: dict[str, str], name: str) -> None:
    """Passes, skips or fails the test that stands for a check; "exit" is the process itself."""
    import pytest

    told = ended.get(name, "ok" if name == "exit" else "it never ran")
    if told.startswith("skip: "):
        pytest.skip(told.removeprefix("skip: "))
    assert told == "ok", told
