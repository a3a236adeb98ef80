"""`tide run --processes` and `tide resize`: the processes of an elastic job on this machine.

The launcher decides nothing about the training: it keeps as many processes alive as are wanted, and
holds the memory file through which they agree among themselves (docs/guides/elastic.md).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from torchtide import _launch, _signal_words
from torchtide.cli import core, exits
from torchtide.errors import NoSuchJob, OptionError, ResizeAborted, Stale

#: As in csrc/elastic/plan.h.
PROCESSES_MAX: Final = 24
DESCRIPTOR: Final = "TIDE_ELASTIC_FD"
#: A worker killed so often without a step in between is not replaced any more.
RESTARTS_WITHOUT_PROGRESS: Final = 3
#: How long workers may take to end after the launcher was told to.
GRACE_S: Final = 10.0
_TICK_S: Final = 0.1


def parse_processes(text: str) -> tuple[int, int]:
    """Bounds of "1:4", or of "4" for a fixed number.

    Raises:
        OptionError: It is neither.
    """
    low, _, high = text.partition(":")
    try:
        bounds = int(low), int(high or low)
    except ValueError:
        bounds = 0, 0
    if not 1 <= bounds[0] <= bounds[1] <= PROCESSES_MAX or text.endswith(":"):
        raise OptionError(
            f"it takes the fewest and the most processes, 1 to {PROCESSES_MAX}",
            asked=f"--processes {text}",
            advice="write --processes 1:4, or --processes 4 for a fixed number",
        )
    return bounds


# ------------------------------------------------------------------------------------------------
# The launcher


@dataclass
class Launcher:
    """Keeps the processes of one job."""

    program: str
    command: Sequence[str]
    environ: Mapping[str, str]
    name: str
    descriptor: int
    group: Any
    children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    failure: int = 0  # exit code of the last child that failed by itself
    _started: int = 0
    _restarts: int = 0
    _steps_at_restart: int = -1
    _ending: int = 0  # signal that the launcher was sent
    _over: bool = False  # no more children are started

    def serve(self) -> int:
        """Returns the job's exit code when all processes have ended."""
        with self._signals():
            while True:
                news = self.group.news()
                report = self.group.report()
                self._reap(report)
                if not self.children and (report["finished"] or self._ending or self.failure):
                    break
                if not self.children and report["generation"] is not None:
                    break  # all left by themselves
                if not report["finished"] and not self._ending:
                    self._keep(self.group.report())
                if not self.children:
                    break
                self.group.await_news(news, _TICK_S)
        if self._ending:
            return 128 + self._ending
        if self.group.report()["finished"]:
            return exits.OK
        return self.failure

    def _keep(self, report: dict[str, Any]) -> None:
        """Starts what is missing, ends what stands by for nothing."""
        wanted = int(report["target"])
        if report["workers"] and wanted > report["workers"]:
            wanted = int(report["workers"])
            self._resize(wanted)
        while len(self.children) < wanted and not self._over:
            self._spawn()
        training = set(report["pids"])
        spare = [pid for pid in self.children if pid in set(report["standing_by"]) - training]
        excess = len(self.children) - max(wanted, len(training))
        for pid in spare[: max(0, excess)]:
            self.children[pid].terminate()

    def _resize(self, wanted: int) -> None:
        try:
            self.group.resize(wanted)
        except RuntimeError:  # refused, since the training may end at any moment
            if not self.group.report()["finished"]:
                raise

    def _environ_of_next(self) -> dict[str, str]:
        """The environment of the next process."""
        environ = {
            **self.environ,
            DESCRIPTOR: str(self.descriptor),
            # Known with the first generation; a process that took turns by itself would wait for
            # one that waits for the turn.
            _launch.GANG_VARIABLE: _launch.GANG_TO_COME,
            "TIDE_JOB_NAME": f"{self.name}[{self._started}]",
        }
        limit = int(self.group.report()["limit"])
        if limit:  # of the whole job; from its first step on a process knows how many there are
            environ["TIDE_LIMIT"] = str(limit // int(self.group.report()["target"]))
        return environ

    def _spawn(self) -> None:
        child = subprocess.Popen(
            list(self.command),
            executable=self.program,
            env=self._environ_of_next(),
            pass_fds=(self.descriptor,),
        )
        self._started += 1
        self.children[child.pid] = child

    def _reap(self, report: dict[str, Any]) -> None:
        for pid, child in list(self.children.items()):
            code = child.poll()
            if code is None:
                continue
            del self.children[pid]
            if code == 0:
                self._left()
                continue
            if self._over or (code == -signal.SIGTERM and pid in report["standing_by"]):
                continue
            self.failure = code if code > 0 else 128 - code
            self._lost(code, report)

    def _left(self) -> None:
        """One that ends well before there is a job has no part in one; neither would another."""
        report = self.group.report()
        if self._over or self._ending or report["generation"] is not None:
            return
        self._over = True
        self._resize(max(len(self.children), int(report["low"])))
        print(
            f"tide: a process of {self.name} has ended, and no elastic training has begun; "
            "no other is started. --processes is for scripts that use torchtide.elastic",
            file=sys.stderr,
        )

    def _lost(self, code: int, report: dict[str, Any]) -> None:
        """A killed worker is replaced; one that raised would raise again."""
        if report["steps"] > self._steps_at_restart:
            self._steps_at_restart, self._restarts = int(report["steps"]), 0
        self._restarts += 1
        if (code < 0 and self._restarts <= RESTARTS_WITHOUT_PROGRESS) or report["finished"]:
            return
        left = max(len(self.children), int(report["low"]))
        if left < report["target"]:
            self._resize(left)
        if len(self.children) < report["low"]:
            for child in self.children.values():
                child.terminate()
            self._over = True
        print(
            f"tide: a worker of {self.name} ended with code {code}; "
            f"{len(self.children)} go on in its place",
            file=sys.stderr,
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the workers, then the launcher; others as `--on-signal` says."""

        def end(number: int, _: FrameType | None) -> None:
            self._ending = number
            for child in self.children.values():
                child.send_signal(number)

        handlers: dict[int, Any] = {signal.SIGTERM: end, signal.SIGINT: end}
        words = _signal_words.parse(self.environ.get(_signal_words.VARIABLE, ""), "elastic job")
        for name, action in words.items():
            handlers[_signal_words.number_of(name)] = self._order_of(action)
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            deadline = time.monotonic() + GRACE_S
            for child in self.children.values():
                try:
                    child.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _order_of(self, action: str) -> Callable[[int, FrameType | None], None]:
        """A handler that pauses or resumes all processes; they stop before the same step."""

        def order(number: int, _: FrameType | None) -> None:
            try:
                self.group.pause(action == _signal_words.PAUSE)
            except RuntimeError as error:  # it has ended, or changes its size just now
                name = signal.Signals(number).name
                print(f"tide: {name}: {self.name} cannot {action}: {error}", file=sys.stderr)

        return order


def launch(
    program: str, command: Sequence[str], environ: Mapping[str, str], bounds: tuple[int, int]
) -> int:
    """Runs `command` in as many processes as the bounds and the cores allow; its exit code."""
    cores = len(os.sched_getaffinity(0))
    first = max(bounds[0], min(bounds[1], cores))
    descriptor = int(core.module().elastic_create(bounds[0], bounds[1], first))
    group = core.module().ElasticGroup(descriptor)
    limit = core.parse_bytes(environ.get("TIDE_LIMIT") or "0", "TIDE_LIMIT")
    if limit:
        group.limit(limit)
    name = environ["TIDE_JOB_NAME"]
    with published(name, descriptor) as known_as:
        return Launcher(program, command, environ, known_as, descriptor, group).serve()


# ------------------------------------------------------------------------------------------------
# Finding a job from another terminal


def _folder() -> Path:
    return core.runtime_dir() / "elastic"


@contextmanager
def published(name: str, descriptor: int) -> Iterator[str]:
    """Leaves a note of where the memory file is, under a name that no living job has."""
    _launch.prepare_runtime_dir(core.runtime_dir())
    folder = _folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    note = {
        "pid": os.getpid(),
        "start": _launch.process_start_time(os.getpid()),
        "fd": descriptor,
    }
    safe = name.replace("/", "_")
    number = 1
    while True:
        known_as = safe if number == 1 else f"{safe}-{number}"
        path = folder / f"{known_as}.json"
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            if _living(path) is None:
                path.unlink(missing_ok=True)
            else:
                number += 1
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(note, file)
        break
    try:
        yield known_as
    finally:
        path.unlink(missing_ok=True)


def _living(path: Path) -> dict[str, int] | None:
    """The note of a launcher that still runs."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        pid, start = int(note["pid"]), int(note["start"])
        if _launch.process_start_time(pid) != start:
            return None
        return {"pid": pid, "fd": int(note["fd"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def living_names() -> list[str]:
    """Names of the elastic jobs whose launcher lives, sorted."""
    return sorted(path.stem for path in _folder().glob("*.json") if _living(path))


def open_group(job: str) -> Any:
    """The group of a running elastic job.

    Raises:
        NoSuchJob: None is called so; the sentence names those there are.
    """
    note = _living(_folder() / f"{job.replace('/', '_')}.json")
    if note is None:
        there = living_names()
        raise NoSuchJob(
            f'no elastic job is called "{job}"'
            + (f"; there are {', '.join(there)}" if there else "; there is none at all"),
            advice="tide run --processes 1:4 -- python train.py starts one",
        )
    descriptor = os.open(f"/proc/{note['pid']}/fd/{note['fd']}", os.O_RDWR)
    try:
        return core.module().ElasticGroup(descriptor)
    finally:
        os.close(descriptor)


def resize(job: str, processes: int, timeout_s: float, json_output: bool) -> int:
    """`tide resize`: see `change_size`. Its exit code."""
    told = change_size(job, processes, timeout_s)
    if json_output:
        exits.emit_json(told)
    else:
        print(
            f"{job}: {told['from']} -> {processes} processes at step {told['step']}, "
            f"{told['took_s']:.2f} s"
        )
    return exits.OK


def change_size(job: str, processes: int, timeout_s: float) -> dict[str, Any]:
    """Changes the number of processes and waits until the job runs on it.

    Raises:
        NoSuchJob: No elastic job of that name runs.
        OptionError: The number is outside of the job's bounds.
        Stale: Another resize came later.
        ResizeAborted: It did not happen in time and was undone.
    """
    group = open_group(job)
    asked = f"tide resize {job} {processes}"
    before = group.report()
    begin = time.monotonic()
    if processes < 1:
        raise OptionError(
            f"this job runs on {before['low']} to {before['high']}",
            asked=asked,
            advice=f"`tide pause {job}` takes a job's memory without ending it",
        )
    if before["pausing"]:
        raise ResizeAborted(
            "it is paused, and changes its size between two steps only",
            asked=asked,
            advice=f"`tide resume {job}` first",
        )
    try:
        group.resize(processes)
    except ValueError as error:
        raise OptionError(str(error), asked=asked) from error
    except RuntimeError as error:
        raise ResizeAborted(str(error), asked=asked) from error
    while True:
        news = group.news()
        report = group.report()
        if len(report["pids"]) == processes:
            break
        if report["target"] != processes:
            raise Stale(f"a later wish for {report['target']} processes came", asked=asked)
        if report["finished"]:
            raise ResizeAborted("the training ended first", asked=asked)
        if time.monotonic() - begin > timeout_s:
            group.resize(max(int(report["low"]), len(report["pids"])))
            raise ResizeAborted(
                f"after {timeout_s:g} s there are {len(report['pids'])} processes; it stays so",
                asked=asked,
                advice="a long iteration or start needs a longer --timeout",
            )
        group.await_news(news, _TICK_S)
    return {
        "job": job,
        "from": len(before["pids"]),
        "to": processes,
        "took_s": time.monotonic() - begin,
        "step": report["first_step"],
        "generation": report["generation"],
        "pids": report["pids"],
    }
