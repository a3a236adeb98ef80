"""Children on the phantom GPU of the tests: what the hook adds to a driver's call, on no device.

The phantom answers in microseconds where a driver takes tens of them, so its ratios are upper
bounds of a GPU's.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Generator
from typing import Any

from benchmarks.figure import ROOT

DRIVER = ROOT / "build" / "phantom"
PAGE_BYTES = 20 << 20  # of PyTorch's expandable segments


class NoPhantomError(RuntimeError):
    """There is no phantom GPU for this Python, with the reason."""


class Phantom:
    """Device of 8 GiB for the children of one benchmark."""

    def __init__(self) -> None:
        """Builds the libraries for this torch, once (seconds).

        Raises:
            NoPhantomError: the driver is not built, or does not fit this torch.
        """
        if not (DRIVER / "libcuda.so.1").exists():
            raise NoPhantomError("the phantom driver is not built; scripts/setup builds it")
        version = importlib.metadata.version("torch").split("+")[0]
        command = [sys.executable, str(ROOT / "tests" / "phantom" / "build_for_torch.py")]
        command += ["--driver", str(DRIVER), "--out", str(DRIVER / f"torch-{version}")]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode != 0:
            raise NoPhantomError((built.stderr.strip().splitlines() or ["it does not build"])[-1])
        self._preload = built.stdout.strip()
        self._name = f"bench-{uuid.uuid4().hex[:8]}"

    def environment(self, **settings: str) -> dict[str, str]:
        """Of a child that starts anew."""
        return {
            "LD_PRELOAD": self._preload,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(ROOT)]),
            "TIDE_PHANTOM_NAME": self._name,
            "TIDE_PHANTOM_QUIET": "1",
            "TIDE_PHANTOM_MB": "8192",
            **settings,
        }

    def forget(self) -> None:
        """Removes what it left."""
        for path in pathlib.Path("/dev/shm").glob(f"tide-phantom-{self._name}-*"):
            path.unlink()


def segments(arm: str) -> Generator[Any, int, None]:
    """Each call makes and gives back a block of `request` pages; yields seconds of one page.

    A page is created, mapped, made accessible, unmapped and released. The fastest of ten counts.
    """
    import torch

    untyped: Any = torch.cuda
    warnings.simplefilter("ignore")  # of a driver that lacks what only some devices have
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    if arm != "plain":
        from torchtide import cuda

        assert cuda.enable(arm) == "hooked"
    torch.zeros(1, device="cuda")
    pages = yield "ready"
    while True:
        times = []
        for _ in range(10):
            begin = time.perf_counter()
            block = torch.empty(pages * PAGE_BYTES, dtype=torch.uint8, device="cuda")
            del block
            untyped.empty_cache()
            times.append((time.perf_counter() - begin) / pages)
        pages = yield min(times)
