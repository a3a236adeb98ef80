"""Exit codes of `tide`, and how an error is told: a sentence on stderr, one object with --json."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from torchtide import errors

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_SUCH_JOB: Final = 3
UNAVAILABLE: Final = 4
PERMISSION: Final = 5
CONFLICT: Final = 6
DEADLINE: Final = 7
#: As with env(1) and nohup(1): the command of `tide run` cannot be executed, or is not there.
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127

_BY_TYPE: Final[tuple[tuple[type[errors.TideError], int], ...]] = (
    (errors.OptionError, USAGE),
    (errors.NoSuchJob, NO_SUCH_JOB),
    (errors.DaemonUnavailable, UNAVAILABLE),
    (errors.NotPermitted, PERMISSION),
    (errors.LimitConflict, CONFLICT),
    (errors.Stale, CONFLICT),
    (errors.SuspendTimeout, DEADLINE),
    (errors.ResizeAborted, DEADLINE),
)


class Exit(SystemExit):
    """Ends the command with a code; everything that had to be said has been said."""


def code_of(error: errors.TideError) -> int:
    """The exit code of an error."""
    return next((code for kind, code in _BY_TYPE if isinstance(error, kind)), FAILED)


def emit_json(data: Mapping[str, Any]) -> None:
    """Writes one object on one line of stdout."""
    print(json.dumps(data, ensure_ascii=False, default=str), flush=True)


@contextlib.contextmanager
def reported(json_output: bool, asked: str = "") -> Iterator[None]:
    """Turns a `TideError` of the body into its message and `Exit`.

    Args:
        json_output: Also write `{"ok": false, "error": {...}, "exit_code": N}` to stdout.
        asked: What the user typed, for errors that do not say it themselves.
    """
    try:
        yield
    except errors.TideError as error:
        error.asked = error.asked or asked
        code = code_of(error)
        if json_output:
            emit_json({"ok": False, "error": as_json(error), "exit_code": code})
        print(as_text(error), file=sys.stderr)
        raise Exit(code) from error


def as_json(error: errors.TideError) -> dict[str, Any]:
    """The error as the object that --json prints."""
    return {
        "kind": type(error).__name__,
        "asked": error.asked,
        "available": error.available,
        "advice": error.advice,
        "parts": error.parts,
    }


def as_text(error: errors.TideError) -> str:
    """What was asked, what is available, what to do; one line each."""
    from torchtide.cli import core, text

    head = f"{error.asked}: {error.available}" if error.asked else error.available
    lines = [f"tide: {head}"]
    if error.parts:
        sizes = [
            f"{name.replace('_', ' ')} {core.format_bytes(n)}" for name, n in error.parts.items()
        ]
        lines.append("  made up of: " + " + ".join(sizes))
    if error.advice:
        lines.append(f"  do: {error.advice}")
    return "\n".join(text.clean(line) for line in lines)
