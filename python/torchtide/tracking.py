"""This job's memory, waits and pauses among its training curves, in TensorBoard or MLflow.

Nothing is logged unless `tide.track` is called, and no run is ever started: a writer is given, or
the MLflow run that is active at that moment is used.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from torchtide import _core, runtime
from torchtide._gate import GATE

_LOG = logging.getLogger("torchtide")

#: Also gets a point at the first iteration under another limit.
LIMIT: Final = "tide/limit_bytes"
#: Curves and the figure of `tide.report()` that each shows.
CURVES: Final[Mapping[str, str]] = {
    "tide/memory_bytes": "committed",
    "tide/demoted_bytes": "demoted",
    "tide/outside_bytes": "outside",
    LIMIT: "limit",
    "tide/waited_seconds": "wait_seconds_total",
}
#: A point at each iteration that began after a pause: how long that was.
PAUSED: Final = "tide/paused_seconds"


class Writer(Protocol):
    """What is used of a SummaryWriter of TensorBoard."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Adds a point to a curve."""


class Tracker:
    """Logs at boundaries, on the thread that trains; gives up at the first error."""

    def __init__(
        self, writer: Writer | None, every: int, step: Callable[[], int] | None = None
    ) -> None:
        self._writer = writer
        self._every = every
        self._step = step
        self._begun = 0
        self._limit = -1  # when it was last logged

    def begun(self, paused_s: float | None) -> None:
        """An iteration has begun; `paused_s` is how long the job was paused before it."""
        points = {} if paused_s is None else {PAUSED: paused_s}
        report = _core.report()  # 7 us
        if self._begun % self._every == 0:
            points.update({curve: float(report[key]) for curve, key in CURVES.items()})
        elif report["limit"] != self._limit:
            points[LIMIT] = float(report["limit"])
        self._limit = report["limit"]
        self._begun += 1
        if not points:
            return
        try:
            self._log(points)
        except Exception as error:  # whatever a tracker does, the job trains on
            GATE.on_begun = None
            _LOG.warning("event=not_tracked error=%r", str(error))

    def _log(self, points: Mapping[str, float]) -> None:
        step = self._step() if self._step is not None else int(_core.report()["iterations"])
        if self._writer is not None:
            for curve, value in points.items():
                self._writer.add_scalar(curve, value, step)
            return
        mlflow: Any = sys.modules.get("mlflow")
        if mlflow is not None and mlflow.active_run() is not None:
            mlflow.log_metrics(dict(points), step=step)


def track(
    writer: Writer | None = None, *, every: int = 20, step: Callable[[], int] | None = None
) -> bool:
    """Logs this job's figures from now on: memory, file tier, limit, waits, pauses.

    Starts the job when it does not run. A second call replaces the first.

    Args:
        writer: a SummaryWriter of TensorBoard, or what has its `add_scalar`. None: the MLflow run
            that is active when a point is due; where there is none, nothing is logged.
        every: iterations between two points of a curve. Pauses are logged as they end, and a limit
            that has moved at the next iteration.
        step: gives the step to log at; default: the iterations that tide has counted.

    Returns:
        False when torchtide is switched off (`TIDE_DISABLE=1`).

    Raises:
        ValueError: `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"every={every}: a point is logged every 1 or more iterations")
    if runtime.start() is None:
        return False
    GATE.on_begun = Tracker(writer, every, step).begun
    return True
