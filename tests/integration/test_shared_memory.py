"""Slice zero: two jobs in one memory cgroup with less than their sum, one of them under a limit.

Forked DataLoader workers, a stopped holder of the turn, a killed holder of the turn. Weights and
optimizer state must be bitwise those of the jobs alone, and the kernel's peak must be what the
ledger says.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch  # noqa: F401  (this test runs on every supported torch)
from torchtide.demo import confine
from torchtide.demo.confine import Command, Report
from torchtide.demo.live import LiveStatus

SCRIPTS = pathlib.Path(__file__).parent / "scripts"
MIB = 1 << 20
# Slab, page tables and sockets of six processes, and what the kernel has dirty before it is
# written.
KERNEL_BYTES = 128 * MIB


@pytest.fixture()
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """A daemon and a device of their own; the path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="tide-") as folder:
        path = pathlib.Path(folder) / "run"
        monkeypatch.setenv("TIDE_RUNTIME_DIR", str(path))
        monkeypatch.setenv("TIDE_SPILL_DIR", str(pathlib.Path(folder) / "spill"))
        yield path
        pid = path / "tided.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)


def command(
    name: str, folder: pathlib.Path, *options: str, tide: tuple[str, ...] | None = None, **env: str
) -> Command:
    """One training script, alone or through `tide run`."""
    script = [
        sys.executable,
        str(SCRIPTS / "big_adam.py"),
        "--out",
        str(folder / f"{name}.json"),
        *options,
    ]
    if tide is not None:
        script = [sys.executable, "-m", "torchtide", "run", "--name", name, *tide, "--", *script]
    return Command(name, script, folder / f"{name}.log", env)


def result(folder: pathlib.Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    assert path.exists(), (folder / f"{name}.log").read_text()
    record: dict[str, Any] = json.loads(path.read_text())
    return record


class Trouble:
    """Stops the holder of the turn once, and kills the third job while it holds the turn."""

    def __init__(self, victim: str) -> None:
        self.status = LiveStatus()
        self.victim = victim
        self.stopped: int | None = None
        self.stopped_at = 0.0
        self.stop_done = False
        self.killed = False
        self.turns_after_stop = 0
        self.pids: dict[str, int] = {}

    def tick(self, report: Report) -> None:
        snapshot = self.status.look(report.seconds)
        if snapshot is None:
            return
        if self.stopped is not None:
            if time.monotonic() - self.stopped_at > 4.0 or snapshot.holder not in (
                "",
                self.stop_name,
            ):
                self.turns_after_stop += snapshot.holder not in ("", self.stop_name)
                with contextlib.suppress(ProcessLookupError):  # its outcome says how it died
                    os.kill(self.stopped, signal.SIGCONT)
                self.stopped, self.stop_done = None, True
            return
        holder = snapshot.holder
        lines = {job.name: job for job in snapshot.jobs}
        if not holder or lines[holder].iterations < 2:
            return
        pid = next(
            record["pid"] for record in self.status.ask()["jobs"] if record["name"] == holder
        )
        if not self.killed:
            if holder == self.victim:
                os.kill(pid, signal.SIGKILL)
                self.killed = True
        elif not self.stop_done:
            os.kill(pid, signal.SIGSTOP)
            self.stopped, self.stopped_at, self.stop_name = pid, time.monotonic(), holder


def around_the_peak(report: Report, status: LiveStatus) -> str:
    """What kernel and ledger said about the second around the most that was sampled."""
    most = max(report.samples, key=lambda sample: sample.used_bytes)
    lines = [
        f"{s.seconds:.2f} s kernel {s.used_bytes / MIB:.0f} MiB, "
        f"shared {s.shared_bytes / MIB:.0f}, cache {s.cache_bytes / MIB:.0f}, "
        + ", ".join(f"{name} {held / MIB:.0f}" for name, held in s.private.items())
        for s in report.samples
        if abs(s.seconds - most.seconds) < 0.5
    ]
    lines += [
        f"{seconds:.2f} s ledger {used / MIB:.0f} MiB"
        for seconds, used in status.used
        if abs(seconds - most.seconds) < 0.5
    ]
    return "\n".join(sorted(lines))


def test_two_jobs_in_less_than_their_sum_end_bitwise_as_alone(
    tmp_path: pathlib.Path, runtime_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    confine.warm_page_cache(sys.executable, ["torch"])
    # The ledger counts a tensor from the moment it is promised, the kernel a page from the moment
    # it is written. They differ by what is being written just then, so that no tensor is large
    # beside the 5 % that they may differ by.
    big = ("--width", "2304", "--depth", "12", "--steps", "6", "--batch", "32")
    small = ("--width", "1024", "--steps", "20", "--batch", "256")
    peaks = {}
    third = ("--width", "256", "--steps", "2000")
    alone = {"big": big, "big-again": big, "small": small, "victim": (*third[:3], "20")}
    for name, options in alone.items():
        report = confine.run(name, [command(name, tmp_path, *options)], None)
        peaks[name] = report.peak_bytes
    assert result(tmp_path, "big") == result(
        tmp_path, "big-again"
    )  # the control: solo against solo

    # The third job, which is killed, has room of its own: the two that must end share less than
    # their sum.
    capacity = int(0.8 * (peaks["big"] + peaks["small"])) + peaks["victim"]
    limit = int(0.6 * peaks["big"])
    trouble = Trouble("victim")
    environment = {"TIDE_CAPACITY": str(capacity - KERNEL_BYTES), "TIDE_LANE_GRACE_MS": "1000"}
    shared = tmp_path / "shared"
    shared.mkdir()
    commands = [
        command("big", shared, *big, tide=("--limit", str(limit)), **environment),
        command("small", shared, *small, tide=(), **environment),
        command("victim", shared, *third, tide=(), **environment),
    ]
    report = confine.run("shared", commands, capacity, on_tick=trouble.tick)
    ledger = trouble.status.peak_used_bytes
    with capsys.disabled():
        print(
            f"\nslice zero ({report.kind}): solo {peaks['big'] / MIB:.0f} + "
            f"{peaks['small'] / MIB:.0f} MiB, capacity {capacity / MIB:.0f}, "
            f"limit {limit / MIB:.0f}; peak by kernel {report.peak_bytes / MIB:.0f}, "
            f"by ledger {ledger / MIB:.0f} MiB (ratio {ledger / report.peak_bytes:.3f}); "
            f"{trouble.status.handovers} hand-overs"
        )
    print({name: outcome.sentence() for name, outcome in report.outcomes.items()})
    assert report.outcomes["big"].finished, (shared / "big.log").read_text()
    assert report.outcomes["small"].finished, (shared / "small.log").read_text()
    assert trouble.killed and trouble.stop_done
    assert result(shared, "big") == result(tmp_path, "big")
    assert result(shared, "small") == result(tmp_path, "small")
    assert report.oom_kills == 0
    assert 0.95 <= ledger / report.peak_bytes <= 1.05, around_the_peak(report, trouble.status)
