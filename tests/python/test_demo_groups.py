"""Groups with a memory capacity: cgroup files, a real cgroup where we may make one, watching."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torchtide.demo import groups
from torchtide.demo.groups import CgroupV1, CgroupV2, WatchedGroup, open_group

MIB = 1 << 20
#: Touches 300 MiB and waits to be told to end.
HOLD = "import sys; held = b'x' * (300 << 20); print('held', flush=True); sys.stdin.read()"


def fake_v1(root: Path) -> tuple[Path, str]:
    own = root / "memory" / "own"
    own.mkdir(parents=True)
    return own, "4:memory:/own\n2:cpu:/\n0::/\n"


def fake_v2(root: Path, *, limit: str = "max", controllers: str = "memory") -> tuple[Path, str]:
    own = root / "slice" / "own"
    own.mkdir(parents=True)
    (own / "memory.max").write_text(limit)
    (own / "cgroup.subtree_control").write_text("")
    (own.parent / "cgroup.subtree_control").write_text(controllers)
    return own, "0::/slice/own\n"


def only_child(parent: Path) -> Path:
    (child,) = parent.glob(f"{groups.PREFIX}*")
    return child


def test_version_1_group_is_made_below_our_own_with_its_limit(tmp_path: Path) -> None:
    own, text = fake_v1(tmp_path)
    group = open_group("plain", 100 * MIB, root=tmp_path, cgroup_file=text)
    assert isinstance(group, CgroupV1)
    assert (only_child(own) / "memory.limit_in_bytes").read_text() == str(100 * MIB)
    group.close()
    assert list(own.iterdir()) == []


def test_version_1_figures_are_read(tmp_path: Path) -> None:
    own, text = fake_v1(tmp_path)
    group = open_group("plain", None, root=tmp_path, cgroup_file=text)
    files = only_child(own)
    (files / "memory.usage_in_bytes").write_text("900\n")
    (files / "memory.max_usage_in_bytes").write_text("1000\n")
    (files / "memory.stat").write_text("cache 300\nshmem 200\ntotal_cache 301\ntotal_shmem 201\n")
    (files / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert group.usage() == groups.Usage(900, 201, 100)
    assert (group.peak_bytes(), group.oom_kills()) == (1000, 3)
    group.close()


def test_version_2_group_is_made_beside_our_own(tmp_path: Path) -> None:
    own, text = fake_v2(tmp_path)
    group = open_group("plain", 100 * MIB, root=tmp_path, cgroup_file=text)
    assert isinstance(group, CgroupV2)
    files = only_child(own.parent)
    assert (files / "memory.max").read_text() == str(100 * MIB)
    assert (files / "memory.swap.max").read_text() == "0"
    (files / "memory.current").write_text("900\n")
    (files / "memory.stat").write_text("file 300\nshmem 200\n")
    (files / "memory.events").write_text("oom 1\noom_kill 2\n")
    (files / "cgroup.procs").write_text("")
    assert group.usage() == groups.Usage(900, 200, 100)
    assert group.peak_bytes() == 900  # an older kernel: the most that was seen
    (files / "memory.peak").write_text("1000\n")
    assert (group.peak_bytes(), group.oom_kills()) == (1000, 2)
    group.close()


def test_version_2_does_not_leave_a_group_that_is_limited(tmp_path: Path) -> None:
    _, text = fake_v2(tmp_path, limit="1000000000")
    assert isinstance(open_group("x", None, root=tmp_path, cgroup_file=text), WatchedGroup)


def test_without_the_memory_controller_processes_are_watched(tmp_path: Path) -> None:
    _, text = fake_v2(tmp_path, controllers="cpu pids")
    assert isinstance(open_group("x", None, root=tmp_path, cgroup_file=text), WatchedGroup)
    assert isinstance(open_group("x", None, root=tmp_path, cgroup_file=""), WatchedGroup)


def test_a_group_that_may_not_be_made_is_watched_instead(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file, so that mkdir fails")
    group = open_group("x", None, root=tmp_path, cgroup_file="4:memory:/own\n")
    assert isinstance(group, WatchedGroup)


def test_groups_of_a_maker_that_was_killed_are_removed(tmp_path: Path) -> None:
    own, text = fake_v1(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = own / f"{groups.PREFIX}{ended.pid}-plain"
    stale.mkdir()
    (stale / "cgroup.procs").write_text("")
    living = own / f"{groups.PREFIX}{os.getppid()}-plain"
    living.mkdir()
    group = open_group("x", None, root=tmp_path, cgroup_file=text)
    assert not stale.exists() and living.exists()
    group.close()


def test_a_name_that_is_no_word_is_refused() -> None:
    with pytest.raises(ValueError, match="one word"):
        open_group("../up", None)


def test_a_wrapped_command_enters_before_it_starts(tmp_path: Path) -> None:
    procs = tmp_path / "cgroup.procs"
    code = f"import os; assert open({str(procs)!r}).read().strip() == str(os.getpid())"
    argv = groups.wrap_entering(procs, [sys.executable, "-c", code, "with blanks", "$HOME"])
    assert subprocess.run(argv, check=False).returncode == 0


def test_a_command_that_cannot_enter_does_not_start(tmp_path: Path) -> None:
    argv = groups.wrap_entering(tmp_path / "no" / "procs", ["/bin/true"])
    assert subprocess.run(argv, check=False, stderr=subprocess.DEVNULL).returncode != 0


def hold() -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None and child.stdout.readline() == b"held\n"
    return child


def test_a_watched_group_counts_what_its_processes_hold() -> None:
    group = WatchedGroup(None)
    child = hold()
    try:
        assert group.pids() == {child.pid}
        assert 300 * MIB <= group.usage().used_bytes <= 330 * MIB
        assert group.peak_bytes() >= 300 * MIB
    finally:
        group.close()
    assert child.wait() == -9


def test_a_watched_group_kills_the_largest_when_it_is_full() -> None:
    group = WatchedGroup(200 * MIB)
    small = subprocess.Popen([sys.executable, "-c", HOLD.replace("300", "30")], stdin=-1, stdout=-1)
    assert small.stdout is not None and small.stdout.readline() == b"held\n"
    large = hold()
    try:
        group.usage()
        assert large.wait() == -9
        assert small.poll() is None
        assert group.oom_kills() == 1
    finally:
        group.close()
    small.wait()


def test_a_watched_group_leaves_alone_what_was_there_before() -> None:
    before = hold()
    group = WatchedGroup(1 * MIB)
    group.usage()
    group.close()
    assert before.poll() is None
    before.communicate(b"")


def test_the_kernel_kills_what_exceeds_a_cgroup() -> None:
    group = open_group("test", 150 * MIB)
    try:
        if isinstance(group, WatchedGroup):
            pytest.skip("no cgroup may be made here")
        argv = group.wrap([sys.executable, "-c", HOLD])
        assert subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode == -9
        assert group.oom_kills() == 1
        assert 140 * MIB <= group.peak_bytes() <= 150 * MIB
        assert group.pids() == set()
    finally:
        group.close()


def test_closing_a_cgroup_kills_what_is_left_in_it() -> None:
    group = open_group("test", None)
    argv = group.wrap([sys.executable, "-c", HOLD])
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"held\n"
    assert child.pid in group.pids()
    assert group.usage().used_bytes >= 300 * MIB
    group.close()
    assert child.wait() == -9
    assert group.pids() == set()
