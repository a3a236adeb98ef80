"""Elastic jobs whose processes are Ray actors on the driver's machine.

    from torchtide.integrations import ray as tide_ray

    job = tide_ray.start(train, arguments, processes=(1, 4), name="digits")
    job.resize(2)
    job.wait()

`train` is a function that `tide.elastic` decorates. The launcher is that of `tide run --processes`,
in a thread of the driver; only the processes are started by Ray. `tide resize digits 2` works from
a shell as well. See docs/guides/elastic.md.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from torchtide.cli import core
from torchtide.cli import elastic as launcher
from torchtide.errors import OptionError, TideError
from torchtide.integrations.common import require

ray: Any = require("ray", "ray")
_strategies: Any = require("ray.util.scheduling_strategies", "ray")

#: Of the driver's environment; the rest is what Ray gives its workers.
_PASSED: Final = ("TIDE_LANE", "TIDE_JOB_NAME", "TIDE_RUNTIME_DIR", "TIDE_DAEMON")


class _Worker:
    """Runs in the actor."""

    def pid(self) -> int:
        return os.getpid()

    def train(
        self, function: Callable[..., Any], given: tuple[Any, Any], environ: Any, memory: str
    ) -> tuple[int, list[Any]]:
        """Exit code, and the value of the function if it has returned."""
        descriptor = os.open(memory, os.O_RDWR)
        os.environ.update(environ)
        os.environ[launcher.DESCRIPTOR] = str(descriptor)
        try:
            return 0, [function(*given[0], **given[1])]
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                return int(end.code or 0), []
            print(end.code, file=sys.stderr)
            return 1, []
        finally:
            os.close(descriptor)


class _Process:
    """An actor, with what the launcher asks of a `subprocess.Popen`."""

    def __init__(self, actor: Any, answer: Any) -> None:
        self.pid = 0  # until Ray has found a place for it
        self.values: list[Any] = []
        self.error: BaseException | None = None
        self._actor, self._answer = actor, answer
        self._pid = actor.pid.remote()
        self._signal = 0  # it was sent
        self._code: int | None = None

    def place(self) -> bool:
        """Whether it has a place by now."""
        if self.pid == 0 and ray.wait([self._pid], timeout=0)[0]:
            try:
                self.pid = int(ray.get(self._pid))
            except ray.exceptions.RayError:
                return False  # it died on the way: `poll` says so
        return self.pid != 0

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self._code is None and ray.wait([self._answer], timeout=0)[0]:
            self._code = self._end()
            ray.kill(self._actor)
        return self._code

    def wait(self, timeout: float) -> int:
        """As `poll`, after at most so many seconds. Raises TimeoutExpired."""
        ray.wait([self._answer], timeout=timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("actor", timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Ends it: Ray knows no other signal."""
        self._signal = number
        ray.kill(self._actor)

    def terminate(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGKILL)

    def _end(self) -> int:
        try:
            code, self.values = ray.get(self._answer)
        except ray.exceptions.RayTaskError as error:
            self.error = error
            return 1
        except ray.exceptions.RayError as error:  # killed, by somebody or by us
            self.error = error
            return -(self._signal or signal.SIGKILL)
        return int(code)


class _Launcher(launcher.Launcher):
    """The launcher of `tide run --processes`, whose processes are actors."""

    make: Callable[[dict[str, str]], _Process]
    ended: list[_Process]

    def _spawn(self) -> None:
        child = self.make(self._environ_of_next())
        self._started += 1
        # Under a number that is no pid, until it has one.
        self.children[-self._started] = child  # type: ignore[assignment]

    def _reap(self, report: dict[str, Any]) -> None:
        for key, child in list(self.children.items()):
            found: Any = child
            if key < 0 and found.place():
                del self.children[key]
                self.children[found.pid] = found
        before = dict(self.children)
        super()._reap(report)
        self.ended += [found for key, found in before.items() if key not in self.children]  # type: ignore[misc]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals are the driver's; at the end no actor is left."""
        try:
            yield
        finally:
            for child in list(self.children.values()):
                child.kill()

    def end(self) -> None:
        """Ends all processes; from another thread."""
        self._ending = signal.SIGTERM
        for child in list(self.children.values()):
            child.terminate()


class RayJob:
    """A running elastic job."""

    def __init__(self, name: str, bounds: tuple[int, int], first: int, make: Any) -> None:
        """Use `start`."""
        descriptor = int(core.module().elastic_create(bounds[0], bounds[1], first))
        self._group = core.module().ElasticGroup(descriptor)
        self._memory = f"/proc/{os.getpid()}/fd/{descriptor}"
        self._known = threading.Event()
        self._code: int | None = None
        self._error: BaseException | None = None
        self._launcher = _Launcher("", (), {}, name, descriptor, self._group)
        self._launcher.make = lambda environ: make(environ, self._memory)
        self._launcher.ended = []
        self._thread = threading.Thread(target=self._serve, args=(name, descriptor), daemon=True)
        self._thread.start()
        self._known.wait()
        if self._error is not None:
            raise self._error

    @property
    def name(self) -> str:
        """Under which `tide resize` and `tide pause` find it."""
        return self._launcher.name

    def report(self) -> dict[str, Any]:
        """What the job says of itself: `pids`, `steps`, `target`, `generation`, `finished`."""
        return dict(self._group.report())

    def resize(self, processes: int, timeout_s: float = 300.0) -> dict[str, Any]:
        """Changes the number of processes and waits until the job runs on it.

        Raises:
            OptionError: the number is outside of the job's bounds.
            ResizeAborted: it did not happen in time, for want of CPUs in Ray for one, and was
                undone.
        """
        return launcher.change_size(self.name, processes, timeout_s)

    def wait(self, timeout_s: float | None = None) -> list[Any]:
        """What the function has returned in the processes that were left at the end.

        Raises:
            TimeoutError: it still trains.
            TideError: it was stopped, or a process failed; the cause is what it raised.
        """
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"{self.name} still trains after {timeout_s:g} s")
        if self._error is not None:
            raise self._error
        ended = self._launcher.ended
        if self._code != 0:
            errors = [process.error for process in ended if process.error is not None]
            raise TideError(
                f"it ended with code {self._code}", asked=f"elastic job {self.name}"
            ) from (errors[-1] if errors else None)
        return [value for process in ended for value in process.values]

    def stop(self) -> None:
        """Ends the job and waits for that; nothing is saved."""
        self._launcher.end()
        self._thread.join()

    def _serve(self, name: str, descriptor: int) -> None:
        try:
            with launcher.published(name, descriptor) as known_as:
                self._launcher.name = known_as
                self._known.set()
                self._code = self._launcher.serve()
        except BaseException as error:
            self._error = error
        finally:
            self._known.set()
            os.close(descriptor)


def start(
    function: Callable[..., Any],
    *args: Any,
    processes: tuple[int, int] = (1, 4),
    name: str = "",
    num_cpus: float = 1,
    **kwargs: Any,
) -> RayJob:
    """Starts an elastic job in Ray actors on this machine.

    Args:
        function: decorated by `tide.elastic`; Ray must be able to pickle it.
        args: its arguments.
        processes: fewest and most actors; it begins with as many as Ray has CPUs for.
        name: of the job; the function's by default.
        num_cpus: CPUs that Ray counts for each actor.
        kwargs: arguments of the function by name.

    Raises:
        OptionError: Ray is not started, or its cluster is reached through a client; the exchange is
            in the memory of one machine, the driver's.
    """
    bounds = launcher.parse_processes(f"{processes[0]}:{processes[1]}")
    if not ray.is_initialized():
        raise OptionError("Ray is not started", asked="start", advice="ray.init() first")
    if ray.util.client.ray.is_connected():
        raise OptionError(
            "the driver is a client of Ray, its actors would run on another machine",
            asked="start",
            advice="submit the driver as a job of the cluster",
        )
    free = ray.available_resources().get("CPU", 1.0)
    first = max(bounds[0], min(bounds[1], int(free / num_cpus) if num_cpus else bounds[1]))
    here = _strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    kind = ray.remote(num_cpus=num_cpus, max_restarts=0, scheduling_strategy=here)(_Worker)
    inherited = {key: os.environ[key] for key in _PASSED if key in os.environ}
    whole = ray.put(function)

    def make(environ: dict[str, str], memory: str) -> _Process:
        actor = kind.remote()
        return _Process(
            actor, actor.train.remote(whole, (args, kwargs), inherited | environ, memory)
        )

    return RayJob(name or getattr(function, "__name__", "job"), bounds, first, make)


__all__ = ["RayJob", "start"]
