"""This job's memory, waits and pauses among its training curves.

TensorBoard, Weights & Biases and MLflow: what the script itself logs to is found, and no run is
ever started. By itself a job logs only what happened to it (option `track`); `tide.track` adds the
curves.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from torchtide import _core, runtime
from torchtide._gate import GATE

_LOG = logging.getLogger("torchtide")

#: Also gets a point when the limit is another one.
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
#: Iterations between two points of a curve, and between two looks at the limit without curves.
EVERY: Final = 20
#: Values of the option `track`.
MODES: Final = ("markers", "curves", "off")

#: Where a script has no open writer, it is not searched for one more often than this.
_SEARCH_EVERY_S: Final = 5.0
#: Modules that have a SummaryWriter; they are looked at where a script has imported them.
_BOARDS: Final = ("torch.utils.tensorboard.writer", "tensorboardX.writer")


class Writer(Protocol):
    """What is used of a SummaryWriter of TensorBoard."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Adds a point to a curve."""


class ActiveRuns:
    """What the script logs to, found when there is something to log."""

    def __init__(self) -> None:
        self._boards: list[weakref.ref[Any]] = []
        self._searched = -_SEARCH_EVERY_S

    def log(self, points: Mapping[str, float], step: int) -> None:
        """Adds the points to each writer and run that is open; to none where there is none."""
        for writer in self._open_boards():
            for curve, value in points.items():
                writer.add_scalar(curve, value, step)
        wandb: Any = sys.modules.get("wandb")
        if getattr(wandb, "run", None) is not None:
            # Without a commit they go with the script's next points: its steps stay as they are.
            wandb.run.log(dict(points), commit=False)
        mlflow: Any = sys.modules.get("mlflow")
        if mlflow is not None and mlflow.active_run() is not None:
            mlflow.log_metrics(dict(points), step=step)

    def _open_boards(self) -> list[Any]:
        """The SummaryWriters that are not closed; all objects are searched when none is known."""
        known = [writer for ref in self._boards if (writer := ref()) is not None]
        boards = [writer for writer in known if writer.file_writer is not None]
        classes = tuple(sys.modules[name].SummaryWriter for name in _BOARDS if name in sys.modules)
        if not boards and classes and time.monotonic() >= self._searched + _SEARCH_EVERY_S:
            self._searched = time.monotonic()
            boards = [
                found
                for found in gc.get_objects()
                if issubclass(type(found), classes) and found.file_writer is not None
            ]
            self._boards = [weakref.ref(writer) for writer in boards]
        return boards


class Tracker:
    """Logs at boundaries, on the thread that trains; gives up at the first error."""

    def __init__(
        self,
        writer: Writer | None = None,
        *,
        every: int = EVERY,
        step: Callable[[], int] | None = None,
        curves: bool = True,
    ) -> None:
        self._writer = writer
        self._active = ActiveRuns()
        self._every = every
        self._step = step
        self._curves = curves
        self._begun = 0
        self._limit = -1  # when it was last looked at

    def begun(self, paused_s: float | None) -> None:
        """An iteration has begun; `paused_s` is how long the job was paused before it."""
        points = {} if paused_s is None else {PAUSED: paused_s}
        due = self._begun % self._every == 0
        self._begun += 1
        if due or self._curves or points:
            points |= self._figures(due)
        if not points:
            return
        try:
            self._log(points)
        except Exception as error:  # whatever a tracker does, the job trains on
            GATE.on_begun = None
            _LOG.warning("event=not_tracked error=%r", str(error))

    def _figures(self, due: bool) -> dict[str, float]:
        """The curves, when a point is due, and the limit when it has moved."""
        report = _core.report()  # 7 us
        last, self._limit = self._limit, report["limit"]
        if self._curves and due:
            return {curve: float(report[key]) for curve, key in CURVES.items()}
        moved = report["limit"] != last and (self._curves or last != -1)
        return {LIMIT: float(report["limit"])} if moved else {}

    def _log(self, points: Mapping[str, float]) -> None:
        step = self._step() if self._step is not None else int(_core.report()["iterations"])
        if self._writer is None:
            self._active.log(points, step)
            return
        for curve, value in points.items():
            self._writer.add_scalar(curve, value, step)


def track(
    writer: Writer | None = None, *, every: int = EVERY, step: Callable[[], int] | None = None
) -> bool:
    """Logs this job's figures from now on: memory, file tier, limit, waits, pauses.

    Starts the job when it does not run. A second call replaces the first.

    Args:
        writer: a SummaryWriter of TensorBoard, or what has its `add_scalar`. None: what the script
            logs to when a point is due: its open SummaryWriters, the run of Weights & Biases, the
            active run of MLflow. Where there is none, nothing is logged, and none is started.
        every: iterations between two points of a curve. Pauses are logged as they end, and a limit
            that has moved at the next iteration.
        step: gives the step to log at; default: the iterations that tide has counted. Weights &
            Biases keeps its own: the points go with the next ones of the script.

    Returns:
        False when torchtide is switched off (`TIDE_DISABLE=1`).

    Raises:
        ValueError: `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"every={every}: a point is logged every 1 or more iterations")
    if runtime.start() is None:
        return False
    GATE.on_begun = Tracker(writer, every=every, step=step).begun
    return True


def check_option() -> None:
    """Raises ValueError when the option `track` has a value that means nothing."""
    mode = _core.get_option("track")
    if mode not in MODES:
        raise ValueError(f"TIDE_TRACK={mode!r}: it takes {', '.join(MODES)}")


def install() -> None:
    """Does what the option `track` says; the job has just started."""
    mode = _core.get_option("track")
    if mode != "off" and GATE.on_begun is None:
        GATE.on_begun = Tracker(curves=mode == "curves").begun
