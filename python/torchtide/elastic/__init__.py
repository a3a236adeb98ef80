"""Elastic training: N logical workers on any number of processes, with one result bit for bit.

    @tide.elastic(workers=8)
    def train(run):
        model, optimizer, loader = run.prepare(model, optimizer, dataset, batch_size=32)
        for batch in run.iterations(loader):
            run.backward(criterion(model(batch.x), batch.y))
            run.step()

Importing this package does not import torch. The package itself is the decorator.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from torchtide.errors import OptionError

if TYPE_CHECKING:
    from torchtide.elastic.adapt import Policy
    from torchtide.elastic.run import Run

__all__ = ["elastic"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: As in csrc/elastic/plan.h.
WORKERS_MAX: Final = 256
PROCESSES_MAX: Final = 24


def elastic(
    workers: int,
    processes: tuple[int, int] | None = None,
    *,
    seed: int = 0,
    threads: int = 1,
    adapt: Policy | None = None,
) -> Callable[[Callable[Concatenate[Run, _P], _R]], Callable[_P, _R]]:
    """Decorates a function that trains as `workers` logical workers.

    Args:
        workers: N, fixed for the life of the job: it defines the batch, the order of the data and
            the random streams.
        processes: fewest and most processes; default: what the launcher says, up to N.
        seed: of the data order and of the logical workers' random states.
        threads: intra-op threads of torch in every process. The number changes bits.
        adapt: asked after each step, in one process, how many processes it wants
            (`torchtide.elastic.adapt`); heard where `tide run --processes` started the job.

    Returns:
        The decorator; the function is given the `Run` as its first argument.

    Raises:
        OptionError: a number is out of range.
    """
    _check_number("workers", workers, 1, WORKERS_MAX)
    _check_number("threads", threads, 1, 1024)
    bounds = processes if processes is not None else (1, min(workers, PROCESSES_MAX))
    if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
        raise OptionError(
            "it takes the fewest and the most, the fewest at least 1",
            asked=f"processes={processes}",
            advice="write processes=(1, 4)",
        )
    if bounds[1] > workers:
        raise OptionError(
            f"{workers} logical workers cannot occupy more than {workers} processes",
            asked=f"processes={processes}",
            advice=f"write processes=({min(bounds[0], workers)}, {workers}) or more workers",
        )

    def decorate(function: Callable[Concatenate[Run, _P], _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            from torchtide.elastic.run import Run

            with Run(workers, bounds, seed=seed, threads=threads, adapt=adapt) as run:
                return function(run, *args, **kwargs)

        return wrapped

    return decorate


def _check_number(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise OptionError(
            f"an integer from {low} to {high} is needed", asked=f"{name}={value!r}", advice=""
        )


class _Callable(types.ModuleType):
    """Lets `tide.elastic(workers=8)` be the decorator although `torchtide.elastic` is a package."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return elastic(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
