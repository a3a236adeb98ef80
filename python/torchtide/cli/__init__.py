"""The `tide` command; everything below is imported when it runs, not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchtide.cli.edges import Edges

__all__ = ["main"]


def main(argv: Sequence[str] | None = None, edges: Edges | None = None) -> int:
    """Runs `tide` and returns its exit code (docs/reference/cli.md lists them).

    Args:
        argv: Arguments without the program's name; those of the process by default.
        edges: The world outside; the real one by default.
    """
    from torchtide.cli import completion

    if argv is None and completion.answered():
        return 0
    from torchtide.cli.app import run_app

    return run_app(argv, edges)
