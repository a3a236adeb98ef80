"""Running commands under a capacity: outcomes, samples, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torchtide.demo import confine, procfs
from torchtide.demo.confine import Command, Report
from torchtide.demo.groups import Group, WatchedGroup, open_group

MIB = 1 << 20
#: Holds 100 MiB until it is killed.
STAY = "import signal; held = b'x' * (100 << 20); print('holding', flush=True); signal.pause()"


def command(folder: Path, name: str, code: str) -> Command:
    return Command(name, [sys.executable, "-c", code], folder / f"{name}.log", {"DEMO": name})


def watched(name: str, capacity: int | None) -> Group:
    return WatchedGroup(capacity)


@pytest.fixture(params=["best", "watched"])
def kind(request: pytest.FixtureRequest) -> object:
    return open_group if request.param == "best" else watched


def test_each_end_is_told(tmp_path: Path, kind: object) -> None:
    commands = [
        command(tmp_path, "good", "import os; print('I am', os.environ['DEMO'])"),
        command(tmp_path, "bad", "raise SystemExit('no such picture')"),
        command(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"),
    ]
    report = confine.run("test", commands, None, open_group=kind)  # type: ignore[arg-type]
    outcomes = report.outcomes
    assert (outcomes["good"].finished, outcomes["good"].last_line) == (True, "I am good")
    assert outcomes["bad"].exit_code == 1
    assert outcomes["bad"].last_line == "no such picture"
    assert outcomes["killed"].exit_code == -signal.SIGTERM
    assert sorted(report.failed) == ["bad", "killed"]
    assert not any(outcome.killed_for_memory for outcome in outcomes.values())
    assert report.oom_kills == 0


def test_who_wants_too_much_is_killed_for_memory(tmp_path: Path, kind: object) -> None:
    greedy = "held = b'x' * (100 << 20), b'y' * (300 << 20); import signal; signal.pause()"
    commands = [command(tmp_path, "greedy", greedy), command(tmp_path, "modest", "print('done')")]
    report = confine.run("test", commands, 200 * MIB, open_group=kind)  # type: ignore[arg-type]
    assert report.outcomes["greedy"].killed_for_memory
    assert report.outcomes["greedy"].sentence() == "killed: out of memory"
    assert report.outcomes["modest"].finished
    assert report.failed == ["greedy"]
    assert report.oom_kills >= 1
    assert report.peak_bytes >= 100 * MIB


def test_samples_say_which_job_holds_what(tmp_path: Path, kind: object) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STAY!r}])"
    commands = [
        command(tmp_path, "parent", child),
        command(tmp_path, "small", "import signal; signal.pause()"),
    ]
    seen: list[Report] = []

    def enough(report: Report) -> None:
        seen.append(report)
        # Both figures: a sample reads one after the other while the child still grows.
        if any(
            min(one.private.get("parent", 0), one.used_bytes) > 100 * MIB
            for one in report.samples[-1:]
        ):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        confine.run("test", commands, None, on_tick=enough, open_group=kind)  # type: ignore[arg-type]
    last = seen[-1].samples[-1]
    assert last.used_bytes > 100 * MIB
    assert 0 < last.private["small"] < 50 * MIB


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, kind: object) -> None:
    def interrupt(report: Report) -> None:
        if report.samples and report.samples[-1].used_bytes > 100 * MIB:
            raise KeyboardInterrupt

    before = procfs.descendants(os.getpid())
    commands = [command(tmp_path, f"job{i}", STAY) for i in range(2)]
    with pytest.raises(KeyboardInterrupt):
        confine.run("test", commands, None, on_tick=interrupt, open_group=kind)  # type: ignore[arg-type]
    assert procfs.descendants(os.getpid()) == before


def test_what_a_job_leaves_running_is_ended_too(tmp_path: Path, kind: object) -> None:
    daemon = (
        "import subprocess, sys; child = subprocess.Popen("
        f"[sys.executable, '-c', {STAY!r}], start_new_session=True, stdout=-1);"
        "child.stdout.readline(); print(child.pid)"
    )
    commands = [command(tmp_path, "leaver", daemon)]
    report = confine.run("test", commands, None, open_group=kind)  # type: ignore[arg-type]
    assert procfs.parent_pid(int(report.outcomes["leaver"].last_line)) is None


def test_the_others_are_stopped_when_one_fails(tmp_path: Path) -> None:
    commands = [command(tmp_path, "stays", STAY), command(tmp_path, "fails", "raise SystemExit(3)")]
    report = confine.run("test", commands, None, stop_at_first_failure=True)
    assert report.outcomes["stays"].stopped
    assert report.outcomes["stays"].sentence() == "stopped"
    assert report.failed == ["fails"]


def test_a_command_that_does_not_exist_leaves_nothing_behind(tmp_path: Path) -> None:
    missing = Command("missing", [str(tmp_path / "nothing")], tmp_path / "missing.log")
    before = procfs.descendants(os.getpid())
    try:
        report = confine.run("test", [command(tmp_path, "stays", "print(1)"), missing], None)
        assert report.outcomes["missing"].exit_code == 127
    except FileNotFoundError:
        pass  # where no shell is between
    assert procfs.descendants(os.getpid()) == before


def test_the_last_words_are_asked_for_before_the_group_goes(tmp_path: Path) -> None:
    told: list[bool] = []
    commands = [command(tmp_path, "good", "print(1)")]
    confine.run("test", commands, None, before_close=lambda: told.append(True))
    assert told == [True]


def test_libraries_are_read_by_a_process_of_ours() -> None:
    assert confine.warm_page_cache(sys.executable, ["json"]) > 1 * MIB


def test_what_cannot_be_imported_is_told() -> None:
    with pytest.raises(RuntimeError, match="scripts/setup"):
        confine.warm_page_cache(sys.executable, ["no_such_module"])


def test_a_process_that_has_ended_has_no_memory() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert procfs.private_bytes(child.pid) == 0
    assert procfs.proportional_bytes(child.pid) == (0, 0)
    assert procfs.parent_pid(child.pid) is None
