"""`tide demo`: lists what there is to see, or shows one."""

from __future__ import annotations

import contextlib
import difflib
import sys
import time
from typing import Annotated

import typer

from torchtide.cli import exits
from torchtide.errors import OptionError


def demo_command(
    name: Annotated[
        str | None,
        typer.Argument(help="Which; none lists them.", autocompletion=lambda: _names()),
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="As little as shows that it works here.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the demos, or run one; each takes a minute or two."""
    with exits.reported(json_output, f"tide demo {name or ''}".strip()):
        raise exits.Exit(demo(name, short, json_output))


def demo(name: str | None, short: bool, json_output: bool) -> int:
    """Runs a demo; 0 when what it promises held.

    Raises:
        OptionError: There is no such demo, or it cannot run here.
    """
    from torchtide.demo.catalogue import ALL

    if name is None:
        if json_output:
            exits.emit_json({"demos": [{"name": each.name, "line": each.line} for each in ALL]})
        else:
            for each in ALL:
                print(f"tide demo {each.name:<11} {each.line}")
        return exits.OK
    found = next((each for each in ALL if each.name == name), None)
    if found is None:
        close = difflib.get_close_matches(name, _names(), n=1)
        raise OptionError(
            f"there is no such demo; there are {', '.join(_names())}",
            advice=f"tide demo {close[0] if close else ALL[0].name}",
        )
    begin = time.monotonic()
    # With --json stdout has one object; what the demo says goes to stderr.
    with contextlib.redirect_stdout(sys.stderr if json_output else sys.stdout):
        result = found.run(short)
    seconds = time.monotonic() - begin
    if json_output:
        exits.emit_json({"demo": name, **result, "seconds": seconds})
    else:
        print(f"{seconds:.0f} s; {'it held' if result['ok'] else 'it did NOT hold'}")
    return exits.OK if result["ok"] else exits.FAILED


def _names() -> list[str]:
    from torchtide.demo.catalogue import ALL

    return [each.name for each in ALL]
