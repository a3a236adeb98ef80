"""Two jobs that a script on the phantom forks, and that train until both had turns."""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Callable

LONGEST_S = 300
STEPS = 4  # of each, at least
_MOVED = 7  # exit code of a job that stepped aside


class Pair:
    """What both jobs see of each other; made before they are forked."""

    def __init__(self) -> None:
        self._done = memoryview(mmap.mmap(-1, 16)).cast("q")
        self._deadline = time.monotonic() + LONGEST_S

    def done(self, mine: int, step: int) -> bool:
        """Says that a job has done a step; whether both have done enough."""
        self._done[mine] = step + 1
        return min(self._done) >= STEPS or time.monotonic() > self._deadline

    def run(self, train: Callable[[int], int]) -> None:
        """Forks the jobs 0 and 1; `train` says how much of its memory was away in between."""
        children = [self._fork(train, mine) for mine in (0, 1)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert set(codes) <= {0, _MOVED} and _MOVED in codes, codes

    def _fork(self, train: Callable[[int], int], mine: int) -> int:
        child = os.fork()
        if child == 0:
            moved = train(mine)
            assert min(self._done) >= STEPS, list(self._done)
            sys.exit(_MOVED if moved > 0 else 0)
        return child
