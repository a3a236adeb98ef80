"""Child processes of a benchmark, forked from one zygote that has imported torch.

A restart of Python with torch costs seconds; a fork of the zygote costs tens of milliseconds. The
zygote must not run an operator: a child of a process that ever used OpenMP threads hangs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

START_SECONDS_MAX = 120.0
CALL_SECONDS_MAX = 300.0

_context = multiprocessing.get_context("forkserver")
# torch._dynamo: the first optimizer imports it, seconds that are no part of a step
_context.set_forkserver_preload(["torch", "numpy", "torch._dynamo"])

_fresh_context = multiprocessing.get_context("spawn")

Body = Callable[..., Iterator[Any]]


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables of this process for a while: a spawned child inherits them."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class WorkerError(RuntimeError):
    """A child raised, died or did not answer in time."""


def _serve(
    channel: multiprocessing.connection.Connection,
    body: Body,
    environment: dict[str, str],
    arguments: dict[str, Any],
) -> None:
    """Runs the generator `body`: a call is sent into it, what it yields is the answer."""
    os.environ.update(environment)
    try:
        steps = body(**arguments)
        channel.send(("ok", next(steps)))
        while True:
            request = channel.recv()
            channel.send(("ok", steps.send(request)))
    except (StopIteration, EOFError):
        with contextlib.suppress(OSError):
            channel.send(("end", None))
    except BaseException:  # the parent reports it; the child has nobody else to tell
        with contextlib.suppress(OSError):
            channel.send(("error", traceback.format_exc()))
    finally:
        channel.close()
        os._exit(
            0
        )  # a child of the zygote skips the interpreter's shutdown, as an ordinary kill would


class Worker:
    """One child. `first` is what its body yielded before the first call."""

    def __init__(
        self,
        body: Body,
        environment: dict[str, str] | None = None,
        fresh: bool = False,
        wait_first: bool = True,
        **arguments: Any,
    ) -> None:
        """Starts the child and waits for its first yield.

        Args:
            body: a generator function of an importable module.
            environment: variables that the child sets before the body runs.
            fresh: a new interpreter instead of a fork of the zygote, for variables that libraries
                read when they are loaded.
            wait_first: wait for the first yield here; else `receive` collects it, for children that
                need each other to get there.
            **arguments: of `body`.
        """
        context = _fresh_context if fresh else _context
        self._channel, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, body, environment or {}, arguments), daemon=True
        )
        with _environment(environment or {} if fresh else {}):
            self.process.start()
        theirs.close()
        self.first = self._receive(START_SECONDS_MAX) if wait_first else None

    def _receive(self, seconds_max: float) -> Any:
        if not self._channel.poll(seconds_max):
            self.kill()
            raise WorkerError(f"no answer from a child within {seconds_max:.0f} s")
        try:
            kind, value = self._channel.recv()
        except EOFError:
            self.process.join(5)
            raise WorkerError(f"a child died with exit code {self.process.exitcode}") from None
        if kind == "error":
            raise WorkerError(f"a child raised:\n{value}")
        return value

    def call(self, request: Any = None, seconds_max: float = CALL_SECONDS_MAX) -> Any:
        """Resumes the body with `request` and returns what it yields next (None when it ended)."""
        self.send(request)
        return self._receive(seconds_max)

    def send(self, request: Any = None) -> None:
        """Resumes the body without waiting for it; `receive` collects the answer."""
        self._channel.send(request)

    def receive(self, seconds_max: float = CALL_SECONDS_MAX) -> Any:
        """What the body yields after a `send`."""
        return self._receive(seconds_max)

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.process.kill()
        self.process.join(10)
        self._channel.close()

    def __enter__(self) -> Worker:
        """The worker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kills the child."""
        self.kill()


@contextlib.contextmanager
def fleet(*workers: Worker) -> Iterator[tuple[Worker, ...]]:
    """Kills all of them at the end, whatever happened."""
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()


def tide_environment(folder: pathlib.Path, **variables: str) -> dict[str, str]:
    """Variables of a job that shares nothing with the machine's other jobs and starts no daemon."""
    return {
        "TIDE_RUNTIME_DIR": str(folder),
        "TIDE_DAEMON": "off",
    } | variables
