"""The job's side: start the runtime, mark iterations, move the budget, ask for figures."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from torchtide import _core, _launch, _notice
from torchtide._gate import GATE
from torchtide.errors import TideError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")

_LOG = logging.getLogger("torchtide")
_LOCK = threading.Lock()
_started = False


def disabled() -> bool:
    """Whether the off switch `TIDE_DISABLE=1` is set."""
    return _core.get_option("disable") in ("1", "true", "yes", "on")


def default_name() -> str:
    """The name of a job that was given none: that of its script or module."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in ("__main__", None):
        name = str(spec.name).removesuffix(".__main__").rsplit(".", 1)[-1]
    elif sys.argv and sys.argv[0] not in ("", "-c", "-m"):
        name = Path(sys.argv[0]).stem
    else:
        name = "python"
    return name


def start(
    *,
    name: str | None = None,
    limit: int | str | None = None,
    min_memory: int | str | None = None,
    priority: str | None = None,
    lane: int | None = None,
) -> str | None:
    """Starts the runtime in this process and sets the hooks; does nothing a second time.

    Args:
        name: of the job; default: option `job.name`, else the script's name.
        limit: budget in bytes or as text such as "1.5GiB".
        min_memory: guaranteed share, likewise.
        priority: "guaranteed", "normal" or "opportunistic".
        lane: lane to take turns in; -1 for none.

    Returns:
        The job's name, or None when `TIDE_DISABLE=1`.

    Raises:
        ValueError: an option makes no sense.
        ImportError: no adapter for this torch.
        PermissionError: the runtime directory belongs to somebody else.
    """
    global _started
    if disabled():
        return None
    with _LOCK:
        if _started:
            return str(_core.name())
        given = {
            "job.name": name,
            "job.limit": limit,
            "job.min_memory": min_memory,
            "job.priority": priority,
        }
        for option, value in given.items():
            if value is not None:
                _core.set_option(option, str(value), "call")
        if lane is not None:
            _core.set_option("lane", str(lane), "call")
        if not _core.get_option("job.name"):
            _core.set_option("job.name", default_name(), "call")
        ranked = _launch.rank_name(_core.get_option("job.name"), os.environ)
        _core.set_option("job.name", ranked, "call")
        _check_options()
        _notice.install()
        from torchtide import _adapter, _cuda_autostart, _signals, tracking

        adapter = _adapter.load()
        gang = _gang()
        _core.start()
        if gang is not None:
            _core.join_gang(*gang, meet=True)
        api = _core.api()
        problem = adapter.install_cpu_allocator(api)
        if problem:
            _core.shutdown()
            raise RuntimeError(f"torchtide cannot hook torch's CPU allocator: {problem}")
        GATE.install(functools.partial(adapter.arm_op_gate, api))
        atexit.register(_say_goodbye)
        _find_daemon()
        _started = True
        _cuda_autostart.install()
        _signals.install()
        tracking.install()
    return str(_core.name())


def _check_options() -> None:
    """Raises ValueError for options that make no sense, before anything has begun."""
    from torchtide import _cuda_autostart, tracking

    for option in ("job.limit", "job.min_memory"):
        _core.parse_bytes(_core.get_option(option))
    _cuda_autostart.check_option()
    tracking.check_option()


def _gang() -> tuple[int, int, int] | None:
    """The gang of this process; where it may have none, a rank takes no turns."""
    gang = _launch.gang_of(os.environ)
    if gang is None and _launch.has_peers(os.environ):
        # The script itself has started us under a launcher: `tide run` would have said it.
        gang = _launch.gang_of_rank(os.environ, os.environ)
        if gang is None:
            _core.set_option("lane", _launch.NO_LANE, "call")
    if gang is not None and _core.get_option("lane.gang") not in ("1", "true", "yes", "on"):
        _core.set_option("lane", _launch.NO_LANE, "call")
        return None
    return gang


def _find_daemon() -> None:
    """Makes the job known to the daemon, which is started when none answers (option `daemon`)."""
    mode = _core.get_option("daemon")
    if mode == "off":
        return
    try:
        _launch.ensure_daemon(Path(_core.runtime_dir()))
    except TideError as error:
        if mode == "require":
            raise
        _LOG.warning("event=no_daemon error=%r", str(error))
    _core.register(" ".join(sys.argv))


def _say_goodbye() -> None:
    # An interrupted interpreter ends by the signal and not by exit, where the code would be known.
    interrupted = isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)
    _core.shutdown(128 + signal.SIGINT if interrupted else None)
    _notice.tell()


def iterations(loader: Iterable[_T], *, total: int | None = None) -> Iterator[_T]:
    """Iterates over `loader`, one turn of the lane an iteration.

    Starts the runtime when it does not run yet. The boundary is where it costs least: at the first
    forward after an optimizer step where there is one, else at each batch.

    Args:
        loader: what to iterate over.
        total: iterations that this process will still run, this loader included; default: the
            length of `loader` where it has one. Turn policies that look ahead (srtf) use it.

    Yields:
        the batches of `loader`.
    """
    if start() is None:
        yield from loader
        return
    source = iter(loader)
    GATE.adopt()
    _core.expect_iterations(_length(loader) if total is None else total)
    try:
        while True:
            try:
                batch = next(source)
            except StopIteration:
                return
            GATE.batch_boundary()
            yield batch
    finally:
        GATE.end()


def _length(loader: object) -> int:
    """Batches of a loader; 0 when it does not say: an IterableDataset's loader raises."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return 0


def job(
    function: Callable[_P, _R] | None = None, **options: Any
) -> Callable[_P, _R] | Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorates a function that trains: the runtime starts before it and its turn ends after it.

    Args:
        function: when used without parentheses.
        **options: those of `start`.
    """

    def decorate(inner: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(inner)
        def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if start(**options) is None:
                return inner(*args, **kwargs)
            GATE.adopt()
            try:
                return inner(*args, **kwargs)
            finally:
                GATE.leave()

        return wrapped

    return decorate(function) if function is not None else decorate


def boundary() -> None:
    """Marks a boundary by hand: for loops that neither use torch's optimizers nor a loader."""
    if start() is not None:
        GATE.adopt()
        GATE.boundary(2)


def set_limit(limit: int | str | None, *, guaranteed: int | str | None = None) -> dict[str, Any]:
    """Moves this job's budget. Between iterations it applies at once, within one at its end.

    Args:
        limit: bytes or text; None or 0 for no limit.
        guaranteed: share that other jobs cannot ask for, in bytes or text; None: as it is.

    Returns:
        status ("applied", "deferred", "stale"), moved_bytes, took_ms, parts of the smallest
        possible limit.

    Raises:
        torchtide.errors.LimitConflict: the limit is below the smallest possible or below what is
            guaranteed; the old one stays.
    """
    from torchtide.errors import LimitConflict

    size = _core.parse_bytes(str(limit)) if limit is not None else 0
    kept = int(_core.report()["guaranteed"])
    share = _core.parse_bytes(str(guaranteed)) if guaranteed is not None else kept
    if 0 < size < share:
        raise LimitConflict(
            f"the limit of {_core.format_bytes(size)} is below the {_core.format_bytes(share)} "
            "that are guaranteed; the old limit stays",
            asked=f"set_limit({limit!r}, guaranteed={guaranteed!r})",
            advice="give a higher limit, or a smaller guaranteed= with it",
            parts={"guaranteed": share, "smallest": share},
        )
    answer: dict[str, Any] = _core.set_limit(size, share, not GATE.open)
    if answer["status"] == "conflict":
        raise LimitConflict(answer["text"], parts=answer["parts"])
    return answer


def pause(*, deep: bool = False) -> None:
    """Suspends this job's memory: all pages go to the file tier, addresses stay.

    Between iterations it happens at once, within one at its end. The next iteration waits for
    `resume` (from another thread, `tide resume` or a call before it).

    Args:
        deep: gives the job's CUDA contexts away too, as with the option `cuda.pause`;
            `torchtide.cuda.report()["deep"]` says whether they are.
    """
    _core.suspend(GATE.may_move(), deep)


def resume() -> None:
    """Brings a suspended job's memory back."""
    now = GATE.may_move()
    _core.resume(now)
    if now and GATE._mine():
        GATE.tell_begun()


def report() -> dict[str, Any]:
    """Figures of this job in bytes and seconds; docs/reference/stats.md explains each."""
    return _core.report()
