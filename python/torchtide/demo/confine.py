"""Runs commands under one memory capacity and records who held what, and who was killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torchtide.demo import procfs
from torchtide.demo.groups import Group, open_group

#: Seconds between samples. Reading memory.stat and five /proc files takes about 0.5 ms.
SAMPLE_INTERVAL_S: Final = 0.1
#: Seconds between two calls of `on_tick`.
TICK_S: Final = 0.1
#: Longer than any run of the demonstration: a run that hangs must end.
DEADLINE_S: Final = 900.0
#: Larger library files are CUDA's: a training process on the CPU maps them and reads little.
WARM_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True)
class Command:
    """A program to run: where its output goes, and what its environment has beyond ours."""

    name: str
    argv: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """How a command ended."""

    name: str
    exit_code: int | None = None  # negative: the signal; None: still running
    seconds: float = 0.0
    killed_for_memory: bool = False
    stopped: bool = False  # by us, before its end
    last_line: str = ""

    @property
    def finished(self) -> bool:
        """Whether it ended by itself and well."""
        return self.exit_code == 0 and not self.stopped

    def sentence(self) -> str:
        """How it ended, for a person."""
        if self.exit_code is None:
            return "running"
        if self.stopped:
            return "stopped"
        if self.killed_for_memory:
            return "killed: out of memory"
        return "finished" if self.exit_code == 0 else f"failed with exit code {self.exit_code}"


@dataclass(frozen=True)
class Sample:
    """The group at one moment; `private` is anonymous memory of each job's main process."""

    seconds: float
    used_bytes: int
    shared_bytes: int
    cache_bytes: int
    private: dict[str, int]


@dataclass
class Report:
    """What a run was, in whole."""

    kind: str
    capacity_bytes: int | None
    started: float  # monotonic
    outcomes: dict[str, Outcome]
    samples: list[Sample] = field(default_factory=list)
    peak_bytes: int = 0
    oom_kills: int = 0
    seconds: float = 0.0

    @property
    def peak_without_cache_bytes(self) -> int:
        """The most that was seen beside the page cache, which the kernel can drop when it must."""
        return max((s.used_bytes - s.cache_bytes for s in self.samples), default=0)

    @property
    def failed(self) -> list[str]:
        """The commands that ended badly by themselves; those that we stopped do not count."""
        ended = (o for o in self.outcomes.values() if o.exit_code is not None and not o.stopped)
        return [outcome.name for outcome in ended if not outcome.finished]


class Sampler:
    """A thread that looks at a group every SAMPLE_INTERVAL_S. Not for use after `stop`."""

    def __init__(self, group: Group, roots: Mapping[str, int], started: float) -> None:
        self.samples: list[Sample] = []
        self._group = group
        self._job_of = {pid: name for name, pid in roots.items()}
        self._started = started
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and waits for it."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_INTERVAL_S):
            try:
                self.samples.append(self._sample())
            except OSError:
                pass  # the group is being removed

    def _sample(self) -> Sample:
        usage = self._group.usage()
        private: dict[str, int] = {}
        for pid in self._group.pids():
            name = self._job(pid)
            if name is not None:
                # The largest only: a forked loader worker shows its parent's pages as its own.
                private[name] = max(private.get(name, 0), procfs.private_bytes(pid))
        seconds = time.monotonic() - self._started
        return Sample(seconds, usage.used_bytes, usage.shared_bytes, usage.cache_bytes, private)

    def _job(self, pid: int) -> str | None:
        """The command that `pid` descends from; remembered, because a parent may end first."""
        chain = []
        current: int | None = pid
        while current is not None and current > 1 and current not in self._job_of:
            chain.append(current)
            current = procfs.parent_pid(current)
        name = self._job_of.get(current) if current is not None else None
        if name is not None:
            self._job_of.update(dict.fromkeys(chain, name))
        return name


def run(
    name: str,
    commands: Sequence[Command],
    capacity_bytes: int | None,
    *,
    on_tick: Callable[[Report], None] | None = None,
    before_close: Callable[[], None] | None = None,
    stop_at_first_failure: bool = False,
    open_group: Callable[[str, int | None], Group] = open_group,
) -> Report:
    """Runs `commands` at once in a group of their own and waits for all of them.

    Whatever happens, also Ctrl-C, nothing of the group is left when this returns.

    Args:
        name: A word for the group.
        commands: What to run.
        capacity_bytes: What all of them together may hold; None only measures.
        on_tick: Called about ten times a second with the report so far.
        before_close: Called when all have ended and before the group is removed.
        stop_at_first_failure: Kill the others when one fails.
        open_group: How to get a group; a test passes its own.
    """
    group = open_group(name, capacity_bytes)
    started = time.monotonic()
    outcomes = {command.name: Outcome(command.name) for command in commands}
    report = Report(group.kind, capacity_bytes, started, outcomes)
    try:
        with _started(group, commands) as children:
            roots = {name: child.pid for name, child in children.items()}
            sampler = Sampler(group, roots, started)
            report.samples = sampler.samples
            try:
                _wait(group, children, report, on_tick, stop_at_first_failure)
            finally:
                sampler.stop()
            report.seconds = time.monotonic() - started
            report.peak_bytes = group.peak_bytes()
            report.oom_kills = group.oom_kills()
            if before_close is not None:
                before_close()
    finally:
        group.close()
    for command in commands:
        report.outcomes[command.name].last_line = _last_line(command.log)
    return report


@contextmanager
def _started(
    group: Group, commands: Sequence[Command]
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The commands as children, in sessions of their own; at the end none of them is left."""
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for command in commands:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            with command.log.open("wb") as log:
                children[command.name] = subprocess.Popen(
                    group.wrap(command.argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **command.environment},
                    start_new_session=True,  # Ctrl-C is ours; we end them
                )
        yield children
    finally:
        for child in children.values():
            if child.poll() is None:
                child.kill()
            child.wait()


def _wait(
    group: Group,
    children: dict[str, subprocess.Popen[bytes]],
    report: Report,
    on_tick: Callable[[Report], None] | None,
    stop_at_first_failure: bool,
) -> None:
    """Fills the outcomes of `report` as the children end."""
    pidfds = {os.pidfd_open(child.pid): name for name, child in children.items()}
    try:
        while pidfds:
            ended, _, _ = select.select(list(pidfds), [], [], TICK_S)
            report.seconds = time.monotonic() - report.started
            late = report.seconds > DEADLINE_S
            for pidfd in ended:
                name = pidfds.pop(pidfd)
                os.close(pidfd)
                _note_end(report.outcomes[name], children[name], group, report.seconds)
            if late or (stop_at_first_failure and report.failed):
                for name in pidfds.values():
                    report.outcomes[name].stopped = True
                    children[name].kill()
            if on_tick is not None:
                on_tick(report)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def _note_end(
    outcome: Outcome, child: subprocess.Popen[bytes], group: Group, seconds: float
) -> None:
    code = child.wait()
    outcome.exit_code = code
    outcome.seconds = seconds
    # A shell and `tide run` report the signal of their child as 128 + signal.
    killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    outcome.killed_for_memory = killed and not outcome.stopped and group.oom_kills() > 0


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def warm_page_cache(python: str, modules: Sequence[str]) -> int:
    """Brings libraries into the page cache from here; returns the bytes that were read.

    The kernel charges a page of a file to the group whose process touched it first, for as long as
    it stays cached. A library is there whether a job runs or not and belongs to no job, so it is
    read by a process of our own group before any measured group exists. Otherwise the first job
    would be charged for torch (some 250 MB on a cold cache) and all others would have it for free.
    """
    code = "import sys\n" + "".join(f"import {module}\n" for module in modules)
    code += "print(open('/proc/self/maps').read())\n"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        raise RuntimeError(f"{python} cannot import {', '.join(modules)}; run scripts/setup")
    size = 0
    for path in procfs.files_of_maps(done.stdout):
        if path.is_file() and (
            path.stat().st_size <= WARM_BYTES_MAX or path.name.startswith("libtorch_cpu")
        ):
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(1 << 22):
                    size += len(chunk)
    return size
