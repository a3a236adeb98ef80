"""What a CUDA driver refuses and allows when physical memory is mapped: a table, and who runs it.

Each rule is one call on a prepared address range, with the answer that cuda.h leads us to expect
and, where a driver (580.159 on an H200) was seen to allow more, that answer too: the phantom driver
of the tests refuses it all the same, so that nothing of ours relies on it.
`scripts/gpu-check` runs the table on a machine's driver and says where it differs; the tests run it
on the phantom driver. Only ctypes is used. Each rule runs in a process of its own, since some leave
the device unusable.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable

MIB = 1 << 20
OK, INVALID_VALUE, OUT_OF_MEMORY = 0, 1, 2
INVALID_DEVICE, ILLEGAL_ADDRESS, NOT_PERMITTED, NOT_SUPPORTED = 101, 700, 800, 801
ILLEGAL_STATE = 401
CRASH = -11  # the process ended by a segmentation fault
DEVICE, FILE_DESCRIPTOR, FABRIC, READ_WRITE = 1, 1, 8, 3


#: What a child does to its parent by steps of the driver's checkpoint; the last step's answer. The
#: parent runs again afterwards. Drivers before 570 have no such calls.
CHECKPOINT = """
import ctypes, sys
driver, pid = ctypes.CDLL(sys.argv[1]), int(sys.argv[2])
if not hasattr(driver, "cuCheckpointProcessLock"):
    sys.exit(print(801))
result = driver.cuInit(0)
for step in sys.argv[3:]:
    result = result or getattr(driver, "cuCheckpointProcess" + step)(pid, None)
print(result)
state = ctypes.c_int()
driver.cuCheckpointProcessGetState(pid, ctypes.byref(state))
if state.value == 2:
    driver.cuCheckpointProcessRestore(pid, None)
if state.value in (1, 2):
    driver.cuCheckpointProcessUnlock(pid, None)
"""


class Location(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Properties(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location", Location),
        ("win32", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", Location), ("flags", ctypes.c_int))


class Sandbox:
    """A driver with 16 pages of address space, a handle of one page and one of two."""

    def __init__(self, library: str) -> None:
        self.driver = ctypes.CDLL(library)
        self._library = library
        self._expect(self.driver.cuInit(0))
        context = ctypes.c_void_p()
        self._expect(self.driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
        self._expect(self.driver.cuCtxSetCurrent(context))
        granularity = ctypes.c_size_t()
        properties = self.properties()
        self._expect(
            self.driver.cuMemGetAllocationGranularity(
                ctypes.byref(granularity), ctypes.byref(properties), 0
            )
        )
        self.page = granularity.value
        address = ctypes.c_uint64()
        self._expect(
            self.driver.cuMemAddressReserve(
                ctypes.byref(address), self.size(16), self.size(0), self.at(0, 0), self.at(0, 0)
            )
        )
        self.base = address.value
        self.one, self.two = self.made(1), self.made(2)

    @staticmethod
    def _expect(result: int) -> None:
        if result != OK:
            raise RuntimeError(f"the driver answers {result} to the preparation of a rule")

    def properties(self, handle_types: int = 0, device: int = 0) -> _Properties:
        """Of a pinned allocation on a device."""
        return _Properties(1, handle_types, Location(DEVICE, device), None)

    def size(self, pages: float) -> ctypes.c_size_t:
        """So many pages in bytes."""
        return ctypes.c_size_t(int(pages * self.page) if pages else 0)

    def at(self, pages: float, base: int | None = None) -> ctypes.c_uint64:
        """An address in the reservation."""
        start = self.base if base is None else base
        return ctypes.c_uint64(start + (int(pages * self.page) if pages else 0))

    def made(self, pages: float, handle_types: int = 0) -> ctypes.c_uint64:
        """A handle."""
        handle = ctypes.c_uint64()
        self._expect(self.create(pages, handle, handle_types))
        return handle

    def create(
        self, pages: float, out: ctypes.c_uint64, handle_types: int = 0, device: int = 0
    ) -> int:
        """The driver's answer."""
        properties = self.properties(handle_types, device)
        return int(
            self.driver.cuMemCreate(
                ctypes.byref(out),
                self.size(pages),
                ctypes.byref(properties),
                ctypes.c_uint64(0),
            )
        )

    def map(self, at: float, pages: float, handle: ctypes.c_uint64, offset: float = 0) -> int:
        """The driver's answer."""
        return int(
            self.driver.cuMemMap(
                self.at(at), self.size(pages), self.size(offset), handle, ctypes.c_uint64(0)
            )
        )

    def access(self, at: float, pages: float, device: int = 0) -> int:
        """The driver's answer."""
        access = Access(Location(DEVICE, device), READ_WRITE)
        return int(
            self.driver.cuMemSetAccess(
                self.at(at), self.size(pages), ctypes.byref(access), ctypes.c_size_t(1)
            )
        )

    def unmap(self, at: float, pages: float) -> int:
        """The driver's answer."""
        return int(self.driver.cuMemUnmap(self.at(at), self.size(pages)))

    def free_address(self, at: float, pages: float) -> int:
        """The driver's answer."""
        return int(self.driver.cuMemAddressFree(self.at(at), self.size(pages)))

    def checkpoint(self, *steps: str, pid: int = 0) -> int:
        """The driver's answer to the last of these steps, which a child asks for."""
        command = [sys.executable, "-I", "-S", "-c", CHECKPOINT, self._library]
        done = subprocess.run(
            [*command, str(pid or os.getpid()), *steps], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    def release(self, handle: ctypes.c_uint64) -> int:
        """The driver's answer."""
        return int(self.driver.cuMemRelease(handle))

    def write(self, at: float) -> int:
        """The driver's answer to a copy of 64 bytes to the device."""
        source = (ctypes.c_ubyte * 64)()
        return int(self.driver.cuMemcpyHtoD_v2(self.at(at), source, ctypes.c_size_t(64)))

    def export(self, handle: ctypes.c_uint64) -> int:
        """The driver's answer."""
        fd = ctypes.c_int(-1)
        return int(
            self.driver.cuMemExportToShareableHandle(
                ctypes.byref(fd), handle, FILE_DESCRIPTOR, ctypes.c_uint64(0)
            )
        )


@dataclasses.dataclass(frozen=True)
class Rule:
    """One call and the answer that is expected of it."""

    name: str
    expected: int
    call: Callable[[Sandbox], int]
    steps: tuple[Callable[[Sandbox], int], ...] = ()  # before it; all must be answered with 0
    laxer: int | None = None  # what a driver was seen to answer, on which nothing relies


def _map_one(s: Sandbox) -> int:
    return s.map(0, 1, s.one)


def _map_two(s: Sandbox) -> int:
    return s.map(0, 2, s.two)


def _checkpoint_and_back(s: Sandbox) -> int:
    result = s.checkpoint("Lock", "Checkpoint", "Restore", "Unlock")
    return OK if result == NOT_SUPPORTED else result  # the rule before says so


RULES: tuple[Rule, ...] = (
    Rule("create half a page", INVALID_VALUE, lambda s: s.create(0.5, ctypes.c_uint64())),
    Rule("create nothing", INVALID_VALUE, lambda s: s.create(0, ctypes.c_uint64())),
    Rule("create on a device that is not there", INVALID_DEVICE,
         lambda s: s.create(1, ctypes.c_uint64(), device=99)),
    Rule("map a page", OK, _map_one),
    Rule("map at half a page", INVALID_VALUE, lambda s: s.map(0.5, 1, s.one)),
    Rule("map past the end of the reservation", INVALID_VALUE, lambda s: s.map(15, 2, s.two),
         laxer=OK),
    Rule("map more than the handle has", NOT_SUPPORTED, lambda s: s.map(0, 2, s.one)),
    Rule("map with an offset", NOT_SUPPORTED, lambda s: s.map(0, 1, s.two, offset=1)),
    Rule("map over a mapping", INVALID_VALUE, lambda s: s.map(1, 1, s.one), (_map_two,)),
    Rule("map a handle at a second address", OK, lambda s: s.map(4, 1, s.one), (_map_one,)),
    Rule("map a released handle", INVALID_VALUE, _map_one, (lambda s: s.release(s.one),),
         laxer=CRASH),
    Rule("unmap a mapping", OK, lambda s: s.unmap(0, 2), (_map_two,)),
    Rule("unmap a part of a mapping", INVALID_VALUE, lambda s: s.unmap(0, 1), (_map_two,)),
    Rule("unmap more than is mapped", INVALID_VALUE, lambda s: s.unmap(0, 2), (_map_one,),
         laxer=OK),
    Rule("unmap what is not mapped", INVALID_VALUE, lambda s: s.unmap(0, 1), laxer=OK),
    Rule("unmap two mappings in one call", OK, lambda s: s.unmap(0, 3),
         (_map_two, lambda s: s.map(2, 1, s.one))),
    Rule("set access over two mappings", OK, lambda s: s.access(0, 3),
         (_map_two, lambda s: s.map(2, 1, s.one))),
    Rule("set access past a mapping", INVALID_VALUE, lambda s: s.access(0, 2), (_map_one,)),
    Rule("set access for a device that is not there", INVALID_VALUE,
         lambda s: s.access(0, 1, device=99), (_map_one,)),
    Rule("release while mapped", OK, lambda s: s.release(s.one), (_map_one,)),
    Rule("write after a release while mapped", OK, lambda s: s.write(0),
         (_map_one, lambda s: s.access(0, 1), lambda s: s.release(s.one))),
    Rule("release twice", INVALID_VALUE, lambda s: s.release(s.one), (lambda s: s.release(s.one),)),
    Rule("free an address range while mapped", INVALID_VALUE, lambda s: s.free_address(0, 16),
         (_map_one,)),
    Rule("free a part of an address range", INVALID_VALUE, lambda s: s.free_address(0, 8)),
    Rule("free an address range", OK, lambda s: s.free_address(0, 16)),
    Rule("export a handle made for it", OK, lambda s: s.export(s.made(1, FILE_DESCRIPTOR))),
    Rule("export a handle not made for it", INVALID_VALUE, lambda s: s.export(s.one)),
    Rule("write", OK, lambda s: s.write(0), (_map_one, lambda s: s.access(0, 1))),
    Rule("write before access is set", ILLEGAL_ADDRESS, lambda s: s.write(0), (_map_one,),
         laxer=INVALID_VALUE),
    Rule("write after an unmap", ILLEGAL_ADDRESS, lambda s: s.write(0),
         (_map_one, lambda s: s.access(0, 1), lambda s: s.unmap(0, 1)), laxer=INVALID_VALUE),
    Rule("lock, checkpoint, restore and unlock the parent process", OK,
         lambda s: s.checkpoint("Lock", "Checkpoint", "Restore", "Unlock"), laxer=NOT_SUPPORTED),
    Rule("write after a checkpoint and a restore", OK, lambda s: s.write(0),
         (_map_one, lambda s: s.access(0, 1), _checkpoint_and_back)),
    Rule("checkpoint a process that is not locked", ILLEGAL_STATE,
         lambda s: s.checkpoint("Checkpoint"), laxer=NOT_SUPPORTED),
    Rule("lock a process twice", ILLEGAL_STATE, lambda s: s.checkpoint("Lock", "Lock"),
         laxer=NOT_SUPPORTED),
    Rule("unlock a process whose memory is away", ILLEGAL_STATE,
         lambda s: s.checkpoint("Lock", "Checkpoint", "Unlock"), laxer=NOT_SUPPORTED),
    Rule("lock a process that is not there", INVALID_VALUE,
         lambda s: s.checkpoint("Lock", pid=1 << 22), laxer=NOT_SUPPORTED),
)  # fmt: skip


def run_rule(rule: Rule, library: str) -> int:
    """The driver's answer, in this process; the device may be unusable afterwards."""
    sandbox = Sandbox(library)
    for step in rule.steps:
        result = step(sandbox)
        if result != OK:
            raise RuntimeError(f"a step before the rule is answered with {result}")
    return rule.call(sandbox)


def compare(library: str, timeout: float = 30) -> list[dict[str, object]]:
    """Runs every rule in a process of its own; the answers beside what is expected."""
    rows: list[dict[str, object]] = []
    for rule in RULES:
        command = [sys.executable, "-m", "torchtide.gpu_check.rules", library, rule.name]
        row: dict[str, object] = {"rule": rule.name, "expected": rule.expected, "answer": None}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False
            )
            if done.returncode == 0:
                row["answer"] = json.loads(done.stdout)
            elif done.returncode < 0:
                row["answer"] = done.returncode
            else:
                row["trouble"] = done.stderr.strip().splitlines()[-1:] or [str(done.returncode)]
        except subprocess.TimeoutExpired:
            row["trouble"] = [f"no answer in {timeout:.0f} s"]
        row["as_expected"] = row["answer"] is not None and (
            row["answer"] in (rule.expected, rule.laxer)
        )
        rows.append(row)
    return rows


if __name__ == "__main__":
    named = next(rule for rule in RULES if rule.name == sys.argv[2])
    print(json.dumps(run_rule(named, sys.argv[1])))
