"""Runs arms in interleaved rounds, so that what the machine does hits all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

ROUNDS_MIN = 5

T = TypeVar("T")


class Deadline:
    """Seconds left of a time budget."""

    def __init__(self, seconds: float) -> None:
        """Starts now."""
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """May be negative."""
        return self._end - time.monotonic()


def interleave(
    arms: Mapping[str, Callable[[], T]],
    rounds_max: int,
    deadline: Deadline,
    seed: int = 1,
    rounds_min: int = ROUNDS_MIN,
) -> dict[str, list[T]]:
    """Calls each arm once a round, in an order that is drawn anew each round.

    Args:
        arms: name -> measurement of one round.
        rounds_max: most rounds.
        deadline: no round starts after it, once `rounds_min` have been run.
        seed: of the order.
        rounds_min: rounds that are run whatever the time.

    Returns:
        name -> one result a round; index i of all arms belongs to the same round.
    """
    source = random.Random(seed)
    measured: dict[str, list[T]] = {name: [] for name in arms}
    for done in range(rounds_max):
        if done >= rounds_min and deadline.left <= 0:
            break
        order = list(arms)
        source.shuffle(order)
        for name in order:
            measured[name].append(arms[name]())
    return measured
