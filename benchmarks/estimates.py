"""Medians, paired ratios and their bootstrap intervals: pure functions on lists of numbers."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Sequence

CONFIDENCE = 0.95
RESAMPLES = 2000  # the interval's ends move by less than its width / 20 beyond this


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A median with its interval and the number of rounds behind it."""

    value: float
    low: float
    high: float
    rounds: int

    @property
    def interval(self) -> list[float]:
        """[low, high], as it stands in the results."""
        return [self.low, self.high]


def quantile(values: Sequence[float], fraction: float) -> float:
    """Linear interpolation between order statistics; `fraction` in [0, 1]."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float], seed: int = 0) -> Estimate:
    """Median with a bootstrap interval over rounds."""
    if not values:
        raise ValueError("no rounds were measured")
    source = random.Random(seed)
    draws = [statistics.median(source.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    tail = (1 - CONFIDENCE) / 2
    return Estimate(
        statistics.median(values), quantile(draws, tail), quantile(draws, 1 - tail), len(values)
    )


def paired_ratio(ours: Sequence[float], baseline: Sequence[float], seed: int = 0) -> Estimate:
    """Median over rounds of ours / baseline: both of a round saw the same state of the machine."""
    if len(ours) != len(baseline):
        raise ValueError(f"{len(ours)} rounds of ours, {len(baseline)} of the baseline")
    return median([mine / theirs for mine, theirs in zip(ours, baseline, strict=True)], seed)


def paired_difference(ours: Sequence[float], baseline: Sequence[float], seed: int = 0) -> Estimate:
    """Median over rounds of ours - baseline."""
    return median([mine - theirs for mine, theirs in zip(ours, baseline, strict=True)], seed)
