"""Reports for choosing sizes: throughput, gradient noise scale, goodput; and policies that choose.

    @tide.elastic(workers=8, adapt=adapt.Marginal(0.5))

A policy is called after each step with a `Report` and returns the number of processes that it
wants, or None. It never changes N, so it changes no bits. What N or the batch should be is for
people: `Report.efficiency` and `scaled_learning_rate` are for them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from torchtide.errors import OptionError

_LOG = logging.getLogger("torchtide")
#: Weight of one step in the means behind the noise scale.
_NOISE_WEIGHT: Final = 0.05
#: Steps of one size that its median is of.
_STEPS_KEPT: Final = 32
#: Steps that make a size's time known: the first ones after a change are not like the others.
_STEPS_NEEDED: Final = 5
RULES: Final = ("none", "linear", "sqrt", "adascale")


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known after a step. Equal in all processes but for `seconds`.

    Attributes:
        step: Steps that have been applied.
        processes: M now.
        bounds: fewest and most processes.
        workers: N.
        batch: samples of one step: N times the batch of a worker times the micro-batches.
        worker_batch: samples of one logical worker in a step.
        seconds: of a step by number of processes, medians of up to 32 steps; sizes that have been
            used for five steps.
        noise_scale: B_simple = tr(S) / |G|^2 in samples (McCandlish et al. 2018,
            arXiv:1812.06162, section 2.2 and appendix A.1): up to about so many samples a step a
            larger batch saves steps in proportion. None: not measured, or not known yet.
    """

    step: int
    processes: int
    bounds: tuple[int, int]
    workers: int
    batch: int
    worker_batch: int
    seconds: Mapping[int, float]
    noise_scale: float | None

    def throughput(self, processes: int) -> float | None:
        """Samples a second with so many processes; None where that was not measured."""
        seconds = self.seconds.get(processes)
        return None if seconds is None else self.batch / seconds

    def efficiency(self, batch: int, reference: int | None = None) -> float | None:
        """Progress of a sample in a step of `batch` samples over one in a step of `reference`.

        (noise + reference) / (noise + batch) (Pollux, Qiao et al. 2021, equation 6). `reference` is
        by default the batch of one logical worker.
        """
        if self.noise_scale is None:
            return None
        reference = self.worker_batch if reference is None else reference
        return (self.noise_scale + reference) / (self.noise_scale + batch)

    def goodput(self, processes: int, reference: int | None = None) -> float | None:
        """Throughput times efficiency: samples a second that count like those of `reference`."""
        throughput = self.throughput(processes)
        efficiency = self.efficiency(self.batch, reference)
        return None if throughput is None or efficiency is None else throughput * efficiency

    def as_dict(self) -> dict[str, Any]:
        """All figures, those of sizes by size: what goes into a log."""
        sizes = sorted(self.seconds)
        return {
            **dataclasses.asdict(self),
            "seconds": dict(self.seconds),
            "throughput": {size: self.throughput(size) for size in sizes},
            "goodput": {size: self.goodput(size) for size in sizes},
        }


Policy = Callable[[Report], int | None]


class Marginal:
    """As many processes as are worth it: tries one more, keeps it when it gains enough.

    A process is worth it when it makes the job faster by at least `gain` of what it would add to an
    ideal job: (throughput(M + 1) / throughput(M) - 1) * M >= gain. Sizes that were measured once
    are not tried again, so a job settles.
    """

    def __init__(self, gain: float = 0.5) -> None:
        """`gain` is a share, above 0 and at most 1."""
        if not 0 < gain <= 1:
            raise OptionError("it is a share of an ideal process", asked=f"Marginal({gain})")
        self.gain = gain

    def __call__(self, report: Report) -> int | None:
        """The smallest size whose next one is not worth it."""
        low, high = report.bounds
        for size in range(low, min(high, report.workers)):
            here, more = report.throughput(size), report.throughput(size + 1)
            if here is None:
                return size
            if more is None:
                return size + 1
            if (more / here - 1) * size < self.gain:
                return size
        return min(high, report.workers)


class NoiseScale:
    """B_simple from the squared norms of the workers' gradients and of their mean.

    With b samples of each of N workers: |G_b|^2 is the mean of the workers' squared norms, |G_B|^2
    that of the mean gradient, B = N b. Then |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b) and
    tr(S) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B), each without bias; both are averaged over steps
    before they are divided (arXiv:1812.06162, appendix A.1).
    """

    def __init__(self, workers: int, worker_batch: int) -> None:
        """Of N logical workers, at least two, with so many samples each in a step."""
        self._workers, self._worker_batch = workers, worker_batch
        self._signal = self._noise = 0.0
        self._weight = 0.0

    def add(self, norms: Sequence[float], mean_norm: float) -> None:
        """One step: squared norms of the workers' gradients, and that of their mean."""
        small, large = sum(norms) / len(norms), mean_norm
        each, batch = self._worker_batch, self._worker_batch * self._workers
        signal = (batch * large - each * small) / (batch - each)
        noise = (small - large) / (1 / each - 1 / batch)
        if not (math.isfinite(signal) and math.isfinite(noise)):
            return  # not finite: this step says nothing
        self._signal += _NOISE_WEIGHT * (signal - self._signal)
        self._noise += _NOISE_WEIGHT * (noise - self._noise)
        self._weight += _NOISE_WEIGHT * (1 - self._weight)

    @property
    def value(self) -> float | None:
        """Samples; None while the averaged signal is not positive."""
        if self._weight < 1 - (1 - _NOISE_WEIGHT) ** _STEPS_NEEDED or self._signal <= 0:
            return None
        return max(self._noise, 0.0) / self._signal

    def state(self) -> list[float]:
        """What `adopt` takes."""
        return [self._signal, self._noise, self._weight]

    def adopt(self, state: Sequence[float]) -> None:
        """Goes on from another process's, or a checkpoint's, state."""
        self._signal, self._noise, self._weight = state


class Times:
    """Seconds of a step by number of processes."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._steps: dict[int, deque[float]] = {}

    def add(self, processes: int, seconds: float) -> None:
        """One step."""
        self._steps.setdefault(processes, deque(maxlen=_STEPS_KEPT)).append(seconds)

    def medians(self) -> dict[int, float]:
        """Of sizes that are known."""
        return {
            size: statistics.median(steps)
            for size, steps in sorted(self._steps.items())
            if len(steps) >= _STEPS_NEEDED
        }


class Observer:
    """What a `Run` keeps for its reports, and the ear that a policy's wish reaches."""

    def __init__(self, workers: int, step_samples: int, noise: bool) -> None:
        """Raises OptionError when a noise scale is wanted of a single worker."""
        if noise and workers < 2:
            raise OptionError(
                "gradients of at least two logical workers are compared",
                asked="prepare(noise_scale=True)",
            )
        self._workers, self._step_samples = workers, step_samples
        self.noise = NoiseScale(workers, step_samples // workers) if noise else None
        self.group: Any = None  # of a job whose size can be ordered
        self._times = Times()
        self._generation = -1
        self._began_s: float | None = None
        self._wanted: int | None = None

    def begin(self, generation: int) -> None:
        """A step begins; the first one of a generation is not timed, it is not like the others."""
        self._began_s = time.perf_counter() if generation == self._generation else None
        self._generation = generation

    def end(self, processes: int) -> None:
        """The step that began last has been applied."""
        if self._began_s is not None:
            self._times.add(processes, time.perf_counter() - self._began_s)

    def report(self, step: int, processes: int, bounds: tuple[int, int]) -> Report:
        """What is known."""
        if self.group is not None:
            found = self.group.report()
            bounds = found["low"], found["high"]
        return Report(
            step=step,
            processes=processes,
            bounds=bounds,
            workers=self._workers,
            batch=self._step_samples,
            worker_batch=self._step_samples // self._workers,
            seconds=self._times.medians(),
            noise_scale=None if self.noise is None else self.noise.value,
        )

    def propose(self, policy: Policy, report: Report) -> None:
        """Orders the size that a policy wants, when it has changed its mind.

        So an order by `tide resize` holds until the policy wants something else than before.

        Raises:
            OptionError: the policy wants what the job cannot have.
        """
        wanted = policy(report)
        if wanted is None or wanted == self._wanted or self.group is None:
            return
        low, high = report.bounds
        if isinstance(wanted, bool) or not isinstance(wanted, int) or not low <= wanted <= high:
            raise OptionError(
                f"a number of processes from {low} to {high} is needed, or None",
                asked=f"the policy wants {wanted!r}",
            )
        self._wanted = wanted
        if wanted != self.group.report()["target"]:
            _LOG.info("event=elastic_adapts step=%d processes=%d", report.step, wanted)
            self.group.resize(wanted)


def scaled_learning_rate(
    rate: float, rule: str, batch_from: int, batch_to: int, noise_scale: float | None = None
) -> float:
    """The learning rate for another batch.

    Args:
        rate: of steps with `batch_from` samples.
        rule: "none"; "linear" (Goyal et al. 2017, arXiv:1706.02677); "sqrt" (Krizhevsky 2014,
            arXiv:1404.5997); "adascale": the gain of AdaScale (Johnson et al. 2020,
            arXiv:2007.05105), (noise / from + 1) / (noise / to + 1).
        batch_from: samples.
        batch_to: samples.
        noise_scale: samples, for "adascale".

    Raises:
        OptionError: another rule, a batch below 1, or "adascale" without a noise scale.
    """
    if rule not in RULES or min(batch_from, batch_to) < 1:
        raise OptionError(
            f"a rule is one of {', '.join(RULES)}, and a batch has at least one sample",
            asked=f"scaled_learning_rate({rate}, {rule!r}, {batch_from}, {batch_to})",
        )
    if rule == "none":
        return rate
    if rule == "linear":
        return rate * batch_to / batch_from
    if rule == "sqrt":
        return rate * math.sqrt(batch_to / batch_from)
    if noise_scale is None:
        raise OptionError(
            "the gain depends on the gradient noise scale",
            asked="scaled_learning_rate(..., 'adascale')",
            advice="run.prepare(..., noise_scale=True), then run.report().noise_scale",
        )
    return rate * (noise_scale / batch_from + 1) / (noise_scale / batch_to + 1)


def squared_norm(gradients: Sequence[torch.Tensor | None]) -> float:
    """Sum of squares over tensors, in an order that does not depend on anything else."""
    given = [g.coalesce().values() if g.is_sparse else g for g in gradients if g is not None]
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in given if g.numel()]
    return float(torch.stack(norms).square().sum()) if norms else 0.0


__all__ = [
    "Marginal",
    "NoiseScale",
    "Observer",
    "Policy",
    "Report",
    "Times",
    "scaled_learning_rate",
    "squared_norm",
]
