"""Experiments that need the driver alone: what calls cost, mapped host memory, a chunk handed over.

Only ctypes is used, no PyTorch: `python -m torchtide.gpu_check.driver NAME --driver LIBRARY` runs
one and prints its JSON. Sizes are in MiB, times in microseconds unless a key says otherwise.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from torchtide.gpu_check import rules

COST_SIZES_MIB = (2, 20, 64, 256)
REPEATS = 50
HOST_NUMA_ID, HOST_NUMA_SUPPORTED = 134, 141
LOCATION_HOST, LOCATION_HOST_NUMA = 2, 3


def costs(sandbox: rules.Sandbox, *, small: bool) -> dict[str, Any]:
    """Median time of each call, by the size of the handle."""
    table: dict[str, dict[str, float]] = {}
    for mib in COST_SIZES_MIB[: 2 if small else None]:
        pages = mib * rules.MIB / sandbox.page
        handle = ctypes.c_uint64()
        base = _reserve(sandbox, pages)
        steps: dict[str, Callable[[], int]] = {
            "create": functools.partial(sandbox.create, pages, handle, rules.FILE_DESCRIPTOR),
            "map": functools.partial(_map, sandbox, base, pages, handle),
            "set_access": functools.partial(_access, sandbox, base, pages),
            "unmap": functools.partial(_unmap, sandbox, base, pages),
            "release": functools.partial(sandbox.release, handle),
        }
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(REPEATS):
            for name, step in steps.items():
                start = time.perf_counter()
                _expect(step(), f"{name} of {mib} MiB")
                times[name].append((time.perf_counter() - start) * 1e6)
        sandbox.driver.cuMemAddressFree(base, sandbox.size(pages))
        table[f"{mib} MiB"] = {
            name: round(statistics.median(taken), 1) for name, taken in times.items()
        }
    return {"verdict": "pass", "costs_us": table}


def host_pages(sandbox: rules.Sandbox, *, small: bool) -> dict[str, Any]:
    """Host memory as physical memory where device memory was: created, mapped, read."""
    pages = (8 if small else 64) * rules.MIB / sandbox.page
    answer: dict[str, Any] = {}
    for name, attribute in (("numa_id", HOST_NUMA_ID), ("numa_attribute", HOST_NUMA_SUPPORTED)):
        value = ctypes.c_int(-1)
        answer[f"{name}_error"] = int(
            sandbox.driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
        )
        answer[name] = value.value
    base = _reserve(sandbox, pages)
    device = sandbox.made(pages)
    _expect(_map(sandbox, base, pages, device), "map device memory")
    _expect(_access(sandbox, base, pages), "set access to device memory")
    _expect(_unmap(sandbox, base, pages), "unmap device memory")
    host = ctypes.c_uint64()
    kinds = (
        ("shareable", LOCATION_HOST_NUMA, rules.FILE_DESCRIPTOR),
        ("host", LOCATION_HOST, 0),
        ("plain", LOCATION_HOST_NUMA, 0),
    )
    for key, location, handle_types in kinds:
        properties = sandbox.properties(handle_types)
        properties.location.type = location
        properties.location.id = max(int(answer["numa_id"]), 0)
        result = sandbox.driver.cuMemCreate(
            ctypes.byref(host), sandbox.size(pages), ctypes.byref(properties), ctypes.c_uint64(0)
        )
        answer[f"create_{key}"] = int(result)
    if answer["create_plain"] != rules.OK:
        return {"verdict": "not offered by this driver", **answer}
    _expect(_map(sandbox, base, pages, host), "map host memory")
    start = time.perf_counter()
    _expect(_access(sandbox, base, pages), "set access to host memory")
    answer["mib"] = pages * sandbox.page / rules.MIB
    answer["set_access_us"] = round((time.perf_counter() - start) * 1e6, 1)
    for which in ("first", "second"):
        other = _reserve(sandbox, pages)
        if which == "first":
            device = sandbox.made(pages)
        _expect(_map(sandbox, other, pages, device), "map the source of a copy")
        _expect(_access(sandbox, other, pages), "set access to the source of a copy")
        start = time.perf_counter()
        _expect(sandbox.driver.cuMemcpyDtoD_v2(base, other, sandbox.size(pages)), "copy")
        _expect(sandbox.driver.cuCtxSynchronize(), "wait for the copy")
        answer[f"{which}_copy_to_host_us"] = round((time.perf_counter() - start) * 1e6, 1)
        _expect(_unmap(sandbox, other, pages), "unmap the source of a copy")
    pattern = bytes(range(256)) * 256
    back = (ctypes.c_ubyte * len(pattern))()
    size = ctypes.c_size_t(len(pattern))
    _expect(sandbox.driver.cuMemcpyHtoD_v2(base, pattern, size), "write to host memory")
    _expect(sandbox.driver.cuMemcpyDtoH_v2(back, base, size), "read host memory")
    answer["exact"] = bytes(back) == pattern
    return {"verdict": "pass" if answer["exact"] else "fail", **answer}


def handover(sandbox: rules.Sandbox, *, small: bool, library: str = "") -> dict[str, Any]:
    """A chunk exported to a second process keeps its data when the first is killed."""
    del sandbox, small
    command = [sys.executable, "-m", "torchtide.gpu_check.driver", "--driver", library]
    giver = subprocess.Popen(
        [*command, "give"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert giver.stdin is not None and giver.stdout is not None
    ready = json.loads(giver.stdout.readline())  # from the taker: the page is mapped there
    giver.send_signal(signal.SIGKILL)
    giver.wait(timeout=30)
    # The taker writes its answer into the pipe that it inherited.
    lines = giver.stdout.read().strip().splitlines()
    answer = ready | (json.loads(lines[-1]) if lines else {"exact": False})
    return {"verdict": "pass" if answer["exact"] else "fail", **answer}


def _give(sandbox: rules.Sandbox, library: str) -> None:
    """The first process: exports a page, starts the second with its descriptor, waits to die."""
    handle = sandbox.made(1, rules.FILE_DESCRIPTOR)
    _expect(sandbox.map(0, 1, handle), "map")
    _expect(sandbox.access(0, 1), "set access")
    _expect(sandbox.write(0), "write zeroes")
    pattern = bytes(range(64))
    _expect(sandbox.driver.cuMemcpyHtoD_v2(sandbox.at(0), pattern, ctypes.c_size_t(64)), "write")
    fd = ctypes.c_int(-1)
    _expect(
        sandbox.driver.cuMemExportToShareableHandle(
            ctypes.byref(fd), handle, rules.FILE_DESCRIPTOR, ctypes.c_uint64(0)
        ),
        "export",
    )
    command = [sys.executable, "-m", "torchtide.gpu_check.driver", "--driver", library]
    taker = subprocess.Popen(  # named: its end of the pipe has to stay open
        [*command, "take", "--fd", str(fd.value)],
        pass_fds=[fd.value],
        stdin=subprocess.PIPE,
        text=True,
    )
    signal.pause()
    del taker


def _take(sandbox: rules.Sandbox, fd: int) -> dict[str, Any]:
    """The second process: waits until the first is dead, then reads."""
    handle = ctypes.c_uint64()
    _expect(
        sandbox.driver.cuMemImportFromShareableHandle(
            ctypes.byref(handle), ctypes.c_void_p(fd), rules.FILE_DESCRIPTOR
        ),
        "import",
    )
    _expect(sandbox.map(4, 1, handle), "map what was imported")
    _expect(sandbox.access(4, 1), "set access to what was imported")
    print(json.dumps({"imported": True}), flush=True)
    sys.stdin.read()  # ends with the first process, which holds the other side
    back = (ctypes.c_ubyte * 64)()
    result = sandbox.driver.cuMemcpyDtoH_v2(back, sandbox.at(4), ctypes.c_size_t(64))
    # A member of a lane passes on what it has imported once its maker is dead.
    again = ctypes.c_int(-1)
    exported = sandbox.driver.cuMemExportToShareableHandle(
        ctypes.byref(again), handle, rules.FILE_DESCRIPTOR, ctypes.c_uint64(0)
    )
    exact = bytes(back) == bytes(range(64))
    return {"read": int(result), "exact": exact, "exported_again": int(exported)}


def green_contexts(library: str) -> list[tuple[int, int]]:
    """Streams on shares of the current device's multiprocessors: (multiprocessors, stream).

    Raises:
        RuntimeError: this driver has none, or refuses one.
    """

    class Resource(ctypes.Structure):
        _fields_ = (
            ("head", ctypes.c_ubyte * 96),
            ("count", ctypes.c_uint),
            ("rest", ctypes.c_ubyte * 44),
        )

    driver = ctypes.CDLL(library)
    if not hasattr(driver, "cuGreenCtxCreate"):
        raise RuntimeError("not offered by this driver")
    everything = Resource()
    multiprocessors = 1
    _expect(
        driver.cuDeviceGetDevResource(0, ctypes.byref(everything), multiprocessors), "resources"
    )
    streams: list[tuple[int, int]] = []
    for count in (32, 64, 96):
        share, rest, groups = Resource(), Resource(), ctypes.c_uint(1)
        _expect(
            driver.cuDevSmResourceSplitByCount(
                ctypes.byref(share), ctypes.byref(groups), ctypes.byref(everything),
                ctypes.byref(rest), 0, count,
            ),
            f"a share of {count} multiprocessors",
        )  # fmt: skip
        described, context, stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        _expect(
            driver.cuDevResourceGenerateDesc(ctypes.byref(described), ctypes.byref(share), 1),
            "describe",
        )
        default_stream, non_blocking = 1, 1
        _expect(
            driver.cuGreenCtxCreate(ctypes.byref(context), described, 0, default_stream), "create"
        )
        _expect(
            driver.cuGreenCtxStreamCreate(ctypes.byref(stream), context, non_blocking, 0), "stream"
        )
        streams.append((share.count, int(stream.value or 0)))
    return streams


def _reserve(sandbox: rules.Sandbox, pages: float) -> ctypes.c_uint64:
    address = ctypes.c_uint64()
    none = ctypes.c_uint64(0)
    _expect(
        sandbox.driver.cuMemAddressReserve(
            ctypes.byref(address), sandbox.size(pages), sandbox.size(0), none, none
        ),
        "reserve",
    )
    return address


def _map(sandbox: rules.Sandbox, at: ctypes.c_uint64, pages: float, handle: ctypes.c_uint64) -> int:
    none = ctypes.c_uint64(0)
    return int(sandbox.driver.cuMemMap(at, sandbox.size(pages), sandbox.size(0), handle, none))


def _access(sandbox: rules.Sandbox, at: ctypes.c_uint64, pages: float) -> int:
    access = rules.Access(rules.Location(rules.DEVICE, 0), rules.READ_WRITE)
    one = ctypes.c_size_t(1)
    return int(sandbox.driver.cuMemSetAccess(at, sandbox.size(pages), ctypes.byref(access), one))


def _unmap(sandbox: rules.Sandbox, at: ctypes.c_uint64, pages: float) -> int:
    return int(sandbox.driver.cuMemUnmap(at, sandbox.size(pages)))


def _expect(result: int, what: str) -> None:
    if result != rules.OK:
        raise RuntimeError(f"the driver answers {result} to: {what}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="gpu-check driver")
    parser.add_argument("name", choices=("costs", "host_pages", "handover", "give", "take"))
    parser.add_argument("--driver", default="libcuda.so.1")
    parser.add_argument("--fd", type=int, default=-1)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    sandbox = rules.Sandbox(arguments.driver)
    if arguments.name == "give":
        _give(sandbox, arguments.driver)
    answers: dict[str, Callable[[], dict[str, Any]]] = {
        "costs": lambda: costs(sandbox, small=arguments.small),
        "host_pages": lambda: host_pages(sandbox, small=arguments.small),
        "handover": lambda: handover(sandbox, small=arguments.small, library=arguments.driver),
        "take": lambda: _take(sandbox, arguments.fd),
    }
    answer = answers[arguments.name]()
    print(json.dumps(answer if arguments.name == "take" else {arguments.name: answer}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
