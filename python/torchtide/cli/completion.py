"""Names of jobs after Tab: from the running daemon and from the elastic jobs there are.

In bash they are answered without the library that reads command lines: importing it takes three
times as long as everything else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

#: Commands whose first word is any job, and the one that takes elastic jobs only.
OF_JOBS: Final = frozenset({"limit", "pause", "resume", "explain", "priority"})
OF_ELASTIC_JOBS: Final = frozenset({"resize"})


def elastic_names() -> list[str]:
    """Elastic jobs whose launcher lives."""
    from torchtide import errors
    from torchtide.cli import elastic

    try:
        return elastic.living_names()
    except (errors.TideError, OSError):
        return []


def job_names() -> list[str]:
    """All jobs; an elastic one once, not each of its processes."""
    from torchtide.cli import jobs
    from torchtide.cli.edges import Edges

    whole = elastic_names()
    ranks = tuple(f"{name}[" for name in whole)
    return whole + [name for name in jobs.job_names(Edges()) if not name.startswith(ranks)]


def answer_bash(environ: Mapping[str, str]) -> bool:
    """Prints the names that fit when bash asks for one; False when it asks for something else."""
    if environ.get("_TIDE_COMPLETE") != "complete_bash" or environ.get("COMP_CWORD") != "2":
        return False
    words = environ.get("COMP_WORDS", "").split()
    command, begun = [*words, "", "", ""][1:3]
    if begun.startswith("-") or command not in OF_JOBS | OF_ELASTIC_JOBS:
        return False
    names = elastic_names() if command in OF_ELASTIC_JOBS else job_names()
    for name in names:
        if name.startswith(begun):
            print(name)
    return True


def answered() -> bool:
    """`answer_bash` for this process."""
    return "_TIDE_COMPLETE" in os.environ and answer_bash(os.environ)
