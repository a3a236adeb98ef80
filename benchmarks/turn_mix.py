"""A published mix of short jobs with a heavy tail and its ideal completion: pure functions."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Callable, Sequence

SEED = 20
COUNT = 20
TOTAL_ITERATIONS = 900
# Arrivals within the first tenth of the work: later, and a queue hardly forms.
ARRIVAL_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class ShortJob:
    """Iterations, and when it arrives, in iterations of work done by the device."""

    iterations: int
    arrival: float


def mix() -> list[ShortJob]:
    """COUNT jobs, log-normal lengths (sigma 1.6), evenly spread arrivals in a drawn order."""
    source = random.Random(SEED)
    raw = [math.exp(source.gauss(0, 1.6)) for _ in range(COUNT)]
    scale = TOTAL_ITERATIONS / sum(raw)
    lengths = [max(2, round(scale * length)) for length in raw]
    # the long ones among the first: the case that first-come-first-served is bad at
    lengths.sort(reverse=True)
    head = lengths[: COUNT // 4]
    rest = lengths[COUNT // 4 :]
    source.shuffle(head)
    source.shuffle(rest)
    step = TOTAL_ITERATIONS * ARRIVAL_SHARE / COUNT
    return [ShortJob(length, index * step) for index, length in enumerate(head + rest)]


def first_come(waiting: Sequence[tuple[float, int, int]]) -> int:
    """Index of the earliest arrival in (arrival, left, index)."""
    return min(waiting)[2]


def shortest_left(waiting: Sequence[tuple[float, int, int]]) -> int:
    """Index of the fewest iterations left."""
    return min(waiting, key=lambda job: (job[1], job[0]))[2]


Pick = Callable[[Sequence[tuple[float, int, int]]], int]


def ideal_completion(jobs: Sequence[ShortJob], pick: Pick, first: float = 1.0) -> float:
    """Mean completion time in iterations when turns cost nothing; decided anew each iteration.

    `first` is how long the first iteration of a job is (it makes the optimizer's state), in later
    ones.
    """
    left = [job.iterations for job in jobs]
    finished = [0.0] * len(jobs)
    now = 0.0
    while any(left):
        waiting = [
            (job.arrival, left[index], index)
            for index, job in enumerate(jobs)
            if left[index] and job.arrival <= now
        ]
        if not waiting:
            now = min(job.arrival for index, job in enumerate(jobs) if left[index])
            continue
        index = pick(waiting)
        now += first if left[index] == jobs[index].iterations else 1.0
        left[index] -= 1
        if not left[index]:
            finished[index] = now - jobs[index].arrival
    return statistics.fmean(finished)


def ideal_ratio(jobs: Sequence[ShortJob], first: float = 1.0) -> float:
    """Mean completion time first come first served, over shortest remaining first."""
    return ideal_completion(jobs, first_come, first) / ideal_completion(jobs, shortest_left, first)
