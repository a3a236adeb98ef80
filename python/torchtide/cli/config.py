"""`tide config`: every option with its value and the place that the value comes from."""

from __future__ import annotations

from pathlib import Path

from torchtide.cli import core, exits, settings
from torchtide.cli.edges import Edges


def config(edges: Edges, reasons: bool, json_output: bool) -> int:
    """Prints the options after reading the files.

    Args:
        edges: The world outside.
        reasons: Also print why each option exists.
        json_output: Print one object with everything.
    """
    stated = settings.apply(edges.folder, edges.environ)
    file_of = {setting.name: setting.file for setting in stated}
    options = core.options()
    for option in options:
        if option["origin"] == "file" and option["name"] in file_of:
            option["file"] = str(file_of[option["name"]])
    if json_output:
        read = [str(path) for path in settings.files(edges.folder, edges.environ)]
        exits.emit_json({"options": options, "files": read})
        return exits.OK
    from torchtide.cli import render

    rows = [
        [option["name"], option["value"] or '""', _origin(option, edges.folder)]
        for option in options
    ]
    headers = ["OPTION", "VALUE", "ORIGIN"]
    if reasons:
        headers.append("REASON")
        rows = [[*row, option["reason"]] for row, option in zip(rows, options, strict=True)]
    render.console().print(render.pairs_table(headers, rows))
    return exits.OK


def _origin(option: dict[str, str], folder: Path) -> str:
    """Where a value comes from, with the variable or the file that states it."""
    if option["origin"] == "environment":
        return option["variable"]
    if "file" not in option:
        return option["origin"]
    path = Path(option["file"])
    if path.parent == folder:
        return f"./{path.name}"
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
