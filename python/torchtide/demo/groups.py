"""One memory capacity for several processes: by a cgroup (v1 or v2), else by watching them."""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from torchtide.demo import procfs

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
#: Groups are named by the process that made them, so that the next one can clear up after a crash.
PREFIX: Final = "torchtide-demo-"
#: How long a killed process may take to leave its group. A process of 2 GiB takes about 0.2 s.
LEAVE_TIMEOUT_S: Final = 10.0
#: From linux/prctl.h.
PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True)
class Usage:
    """What a group holds now: all of it, the shared memory in it, and the page cache in it."""

    used_bytes: int
    shared_bytes: int
    cache_bytes: int


class Group(Protocol):
    """Processes that share one capacity."""

    kind: str

    def wrap(self, argv: list[str]) -> list[str]:
        """The command that enters the group and then becomes `argv`."""

    def pids(self) -> set[int]:
        """The processes in the group now."""

    def usage(self) -> Usage:
        """What the group holds now; a group that watches by itself also enforces the capacity."""

    def peak_bytes(self) -> int:
        """The most that the group has held."""

    def oom_kills(self) -> int:
        """How many processes were killed because the group was at its capacity."""

    def close(self) -> None:
        """Kills what is left in the group and removes it."""


def wrap_entering(procs_file: Path, argv: list[str]) -> list[str]:
    """`argv` started by a shell that first moves itself into a cgroup.

    A shell and not preexec_fn: that would run Python between fork and exec beside our threads.
    """
    return ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(procs_file), *argv]


def kill_until_empty(pids: Callable[[], set[int]], timeout_s: float = LEAVE_TIMEOUT_S) -> None:
    """Kills the processes that `pids` names until it names none, at most for `timeout_s` each."""
    for _ in range(100):
        living = pids()
        if not living:
            return
        for pid in living:
            _kill_and_wait(pid, timeout_s)


def _kill_and_wait(pid: int, timeout_s: float) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], timeout_s)
    except ProcessLookupError:
        pass  # it ended meanwhile
    finally:
        os.close(pidfd)


def _read_counters(path: Path) -> dict[str, int]:
    """A file of lines "name number", as memory.stat is one."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2}


class _Cgroup:
    """What both versions share: a directory below a parent, entered through cgroup.procs."""

    kind = "cgroup"

    def __init__(self, parent: Path, name: str) -> None:
        self._directory = parent / f"{PREFIX}{os.getpid()}-{name}"
        self._directory.mkdir()

    def wrap(self, argv: list[str]) -> list[str]:
        """See `Group.wrap`."""
        return wrap_entering(self._directory / "cgroup.procs", argv)

    def pids(self) -> set[int]:
        """See `Group.pids`."""
        try:
            return {int(pid) for pid in (self._directory / "cgroup.procs").read_text().split()}
        except FileNotFoundError:
            return set()

    def close(self) -> None:
        """See `Group.close`."""
        kill_until_empty(self.pids)
        _remove(self._directory)

    def _number(self, file: str) -> int:
        return int((self._directory / file).read_text())

    def _write(self, file: str, value: str) -> None:
        (self._directory / file).write_text(value)


class CgroupV1(_Cgroup):
    """A group of the memory controller of cgroup version 1."""

    kind = "cgroup v1"

    def __init__(self, parent: Path, name: str, capacity_bytes: int | None) -> None:
        super().__init__(parent, name)
        if capacity_bytes is not None:
            self._write("memory.limit_in_bytes", str(capacity_bytes))
            try:  # else swap would let the plain jobs live; absent where swap is not accounted
                self._write("memory.memsw.limit_in_bytes", str(capacity_bytes))
            except OSError:
                pass

    def usage(self) -> Usage:
        """See `Group.usage`."""
        stat = _read_counters(self._directory / "memory.stat")
        shared = stat.get("total_shmem", stat.get("shmem", 0))
        cache = stat.get("total_cache", stat.get("cache", 0))
        return Usage(self._number("memory.usage_in_bytes"), shared, max(0, cache - shared))

    def peak_bytes(self) -> int:
        """See `Group.peak_bytes`."""
        return self._number("memory.max_usage_in_bytes")

    def oom_kills(self) -> int:
        """See `Group.oom_kills`."""
        return _read_counters(self._directory / "memory.oom_control").get("oom_kill", 0)


class CgroupV2(_Cgroup):
    """A group of the memory controller of cgroup version 2."""

    kind = "cgroup v2"

    def __init__(self, parent: Path, name: str, capacity_bytes: int | None) -> None:
        super().__init__(parent, name)
        self._most_seen = 0
        if capacity_bytes is not None:
            self._write("memory.max", str(capacity_bytes))
            try:
                self._write("memory.swap.max", "0")
            except OSError:
                pass  # the kernel does not account swap

    def usage(self) -> Usage:
        """See `Group.usage`."""
        stat = _read_counters(self._directory / "memory.stat")
        shared = stat.get("shmem", 0)
        used = self._number("memory.current")
        self._most_seen = max(self._most_seen, used)
        return Usage(used, shared, max(0, stat.get("file", 0) - shared))

    def peak_bytes(self) -> int:
        """See `Group.peak_bytes`; before Linux 5.19 the most that was seen by `usage`."""
        try:
            return self._number("memory.peak")
        except FileNotFoundError:
            return self._most_seen

    def oom_kills(self) -> int:
        """See `Group.oom_kills`."""
        return _read_counters(self._directory / "memory.events").get("oom_kill", 0)


class WatchedGroup:
    """No cgroup: sums the physical bytes of our descendants, kills the largest when too much.

    It counts anonymous and shared memory and no file's pages: those of libraries would be there
    anyway, and those of a spill file the kernel can drop. Its peak is the most that was seen.
    """

    kind = "watching"

    def __init__(self, capacity_bytes: int | None) -> None:
        self._capacity = capacity_bytes
        self._peak = 0
        self._kills = 0
        self._before = procfs.descendants(os.getpid())
        # A daemon that a job leaves behind becomes our child, not init's, and stays in the sum.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def wrap(self, argv: list[str]) -> list[str]:
        """See `Group.wrap`."""
        return argv

    def pids(self) -> set[int]:
        """See `Group.pids`."""
        return procfs.descendants(os.getpid()) - self._before

    def usage(self) -> Usage:
        """See `Group.usage`."""
        held = {pid: procfs.proportional_bytes(pid) for pid in self.pids()}
        used = sum(anonymous + shared for anonymous, shared in held.values())
        self._peak = max(self._peak, used)
        if self._capacity is not None and used > self._capacity:
            largest = max(held, key=lambda pid: sum(held[pid]))
            self._kills += 1  # first: who waits for the process asks for the number at its end
            _kill_and_wait(largest, LEAVE_TIMEOUT_S)
        return Usage(used, sum(shared for _, shared in held.values()), 0)

    def peak_bytes(self) -> int:
        """See `Group.peak_bytes`."""
        return self._peak

    def oom_kills(self) -> int:
        """See `Group.oom_kills`."""
        return self._kills

    def close(self) -> None:
        """See `Group.close`."""
        kill_until_empty(self.pids)


def _own_paths(cgroup_file: str) -> tuple[str | None, str | None]:
    """(path in the memory hierarchy of version 1, path in version 2) of /proc/self/cgroup."""
    v1 = v2 = None
    for line in cgroup_file.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            v1 = path.lstrip("/")
        elif not controllers:
            v2 = path.lstrip("/")
    return v1, v2


def _v2_parents(own: Path, root: Path) -> Iterable[Path]:
    """Where a version 2 group with the memory controller can be made: at our side, never above.

    A group that holds processes cannot hand the controller to its children, so ours is made beside
    our own group, below its parent; not where our own group is limited: that would be an escape.
    """
    yield own
    limit = own / "memory.max"
    if own != root and limit.is_file() and limit.read_text().strip() == "max":
        yield own.parent


def _hands_memory_down(directory: Path) -> bool:
    try:
        return "memory" in (directory / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def open_group(
    name: str,
    capacity_bytes: int | None,
    *,
    root: Path = CGROUP_ROOT,
    cgroup_file: str | None = None,
) -> Group:
    """The strictest group that this machine allows us.

    Args:
        name: Part of the group's name, one word.
        capacity_bytes: What it may hold; None measures only.
        root: Where the cgroup file systems are mounted.
        cgroup_file: What /proc/self/cgroup says; None reads it.
    """
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f'a group\'s name is one word of a-z, 0-9 and "-", not "{name}"')
    text = (procfs.PROC / "self/cgroup").read_text() if cgroup_file is None else cgroup_file
    v1, v2 = _own_paths(text)
    if v1 is not None:
        parent = root / "memory" / v1
        _clear_stale(parent)
        try:
            return CgroupV1(parent, name, capacity_bytes)
        except OSError:
            pass  # not ours to write; try the next kind
    if v2 is not None:
        for mount in (root, root / "unified"):
            for parent in filter(_hands_memory_down, _v2_parents(mount / v2, mount)):
                _clear_stale(parent)
                try:
                    return _entered(CgroupV2(parent, name, capacity_bytes))
                except OSError:
                    pass
    return WatchedGroup(capacity_bytes)


def _entered(group: CgroupV2) -> CgroupV2:
    """`group` after a process could enter it: a writable directory alone does not promise that."""
    shell = group.wrap(["/bin/true"])
    if os.spawnv(os.P_WAIT, shell[0], shell) != 0:
        group.close()
        raise PermissionError("no process of ours may enter the group")
    return group


def _clear_stale(parent: Path) -> None:
    """Removes groups whose maker was killed before it could."""
    for directory in parent.glob(f"{PREFIX}*"):
        maker = int(directory.name.removeprefix(PREFIX).split("-")[0])
        if not (procfs.PROC / str(maker)).exists():
            procs = directory / "cgroup.procs"
            kill_until_empty(lambda procs=procs: {int(pid) for pid in procs.read_text().split()})  # type: ignore[misc]
            _remove(directory)


def _remove(directory: Path) -> None:
    """Removes a cgroup's directory; a test's stand-in has plain files in it."""
    try:
        directory.rmdir()
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)
