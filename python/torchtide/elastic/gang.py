"""The processes of one generation of an elastic job have turns in a lane together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from torchtide import _core, _launch
from torchtide._gate import GATE


class GangOfRun:
    """This process's place in the gang of its generation."""

    def __init__(self, descriptor: int) -> None:
        """Takes the descriptor of the job's memory file, which no other job has."""
        found = os.fstat(descriptor)
        self._job = str(found.st_dev), str(found.st_ino)
        self._generation = -1

    def join(self, place: Mapping[str, Any], steps: Callable[[], int]) -> None:
        """Joins the gang of a new generation from the next boundary on.

        Args:
            place: of this process, as the exchange says it.
            steps: committed ones, the same in all processes; a joiner's optimizer counts fewer.
        """
        generation = int(place["generation"])
        if generation == self._generation or not _core.started():
            return
        self._generation = generation
        GATE.steps_of_job = steps
        key = _launch.short_hash("elastic", *self._job, str(generation))
        _core.join_gang(key, int(place["rank"]), int(place["processes"]))
