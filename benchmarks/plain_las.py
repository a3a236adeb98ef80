"""Least attained service as a plain list program: what the simulator's speed is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

LIMITS = (3250, 7200)
NEVER = math.inf


def replay(jobs: Sequence[tuple[int, int, int]], gpus: int) -> tuple[list[int], int]:
    """Runs dlas-gpu-fixed over (submit_s, gpus, duration_s), sorted by submission.

    Returns:
        The completion times in order of completion, and the number of events.
    """
    executed = [0] * len(jobs)
    level = [0] * len(jobs)
    running: set[int] = set()
    queues: list[list[int]] = [[] for _ in range(len(LIMITS) + 1)]
    done: list[int] = []
    now, arrived, events = 0, 0, 0
    end = jump = NEVER
    while arrived < len(jobs) or any(queues):
        submit = jobs[arrived][0] if arrived < len(jobs) else NEVER
        step = int(min(submit, end, jump)) - now
        now += step
        events += 1
        for job in sorted(running):
            executed[job] += step
            if executed[job] >= jobs[job][2]:
                running.discard(job)
                queues[level[job]].remove(job)
                done.append(now - jobs[job][0])
        while arrived < len(jobs) and jobs[arrived][0] <= now:
            queues[0].append(arrived)
            arrived += 1
        for job in sorted(running):
            last = level[job] == len(LIMITS)
            if not last and executed[job] * jobs[job][1] >= LIMITS[level[job]]:
                queues[level[job]].remove(job)
                level[job] += 1
                queues[level[job]].append(job)
        running = _deal(jobs, queues, gpus)
        end = min((now + jobs[j][2] - executed[j] for j in running), default=NEVER)
        jump = min((now + _until_limit(jobs, executed, level, j) for j in running), default=NEVER)
    return done, events


def _deal(jobs: Sequence[tuple[int, int, int]], queues: list[list[int]], free: int) -> set[int]:
    taken = set()
    for queue in queues:
        for job in queue:
            if jobs[job][1] <= free:
                free -= jobs[job][1]
                taken.add(job)
        queue.sort(key=lambda job: job not in taken)
    return taken


def _until_limit(
    jobs: Sequence[tuple[int, int, int]], executed: list[int], level: list[int], job: int
) -> float:
    if level[job] == len(LIMITS):
        return NEVER
    return -(-LIMITS[level[job]] // jobs[job][1]) - executed[job]
