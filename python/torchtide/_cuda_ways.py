"""How PyTorch's device memory is reached: the table of driver calls, cudaMalloc, a pool, or not.

Each way is tried by one allocation, which must be made of our pages, hold what is written and come
back. A way that does not fit is taken back before the next one is tried.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

from torchtide import _adapter, _core

#: In the order in which they are tried; what the option `cuda.hook` may name besides auto and off.
NAMES = ("table", "malloc", "pool", "fraction")
_SELF_TEST_BYTES = 24 << 20  # above 10 MiB a request gets a segment of its own
_EXPANDABLE = re.compile(r"(?:^|,)\s*expandable_segments\s*:\s*(\w+)\s*", re.IGNORECASE)
_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@dataclasses.dataclass
class Chosen:
    """What this process has: a way of `NAMES`, "" before `enable`, and why none before it."""

    name: str = ""
    reason: str = ""
    pool: Pool | None = None

    def said(self) -> str:
        """As `torchtide.cuda.enable` answers."""
        titles = {"table": "hooked", "malloc": "hooked through cudaMalloc"}
        title = titles.get(self.name, self.name)
        return f"{title}: {self.reason}" if self.reason else title


CHOSEN = Chosen()


class Pool:
    """Every allocation of one device, whichever thread makes it, goes to a pool of ours.

    PyTorch never gives the cache of a pool back while it is in use, nor takes up a pool again that
    it has let go. So a flush begins a new pool; what lives in the old one stays valid.
    """

    def __init__(self, device: int) -> None:
        import torch

        self.device = device
        adapter = _adapter.load()
        # PyTorch keeps no reference, and pools that are gone still give segments back.
        self._functions = torch.cuda.memory.CUDAPluggableAllocator(
            str(adapter.__file__), "tide_pool_allocate", "tide_pool_free"
        )
        self._pool: Any = None
        self._handle: Any = None

    def open(self) -> None:
        """Routes the device's allocations here, of all threads."""
        import torch

        with torch.cuda.device(self.device):
            self._pool = torch.cuda.MemPool(self._functions._allocator)
        torch._C._cuda_beginAllocateToPool(self.device, self._pool.id)
        if self._handle is None and before_2_13():
            from torch.optim.optimizer import register_optimizer_step_post_hook

            self._handle = register_optimizer_step_post_hook(lambda *_: self.refresh())

    def close(self) -> None:
        """Allocations are PyTorch's own again; cached segments of the pool are given back."""
        import torch

        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        torch._C._cuda_endAllocateToPool(self.device, pool.id)
        torch._C._cuda_releasePool(self.device, pool.id)
        del pool  # gives back what is cached in it
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def flush(self) -> None:
        """Gives cached memory back: that of pools before this one too."""
        import torch

        self.close()
        torch._C._cuda_emptyCache()
        self.open()

    def refresh(self) -> None:
        """Lets PyTorch look at events of blocks that other streams have used.

        Before 2.13 it takes an open route for a capture, in which events must not be asked; an
        allocation outside of it asks them. Such a block is free an iteration later than usual.
        """
        import torch

        if self._pool is None or torch.cuda.is_current_stream_capturing():
            return
        torch._C._cuda_endAllocateToPool(self.device, self._pool.id)
        torch.empty(1, dtype=torch.uint8, device=f"cuda:{self.device}")
        torch._C._cuda_beginAllocateToPool(self.device, self._pool.id)
        torch._C._cuda_releasePool(self.device, self._pool.id)  # begun once more than before


def before_2_13() -> bool:
    """Whether this torch takes the route of a pool for a capture."""
    import torch

    major, minor = (int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return (major, minor) < (2, 13)


def user_says(setting: str) -> str:
    """The variable in which the user gives PyTorch's allocator this setting; empty: none."""
    for name in _VARIABLES:
        if setting in os.environ.get(name, "").replace(" ", "").lower():
            return name
    return ""


def choose(device: int, wanted: str) -> None:
    """Takes the first way that passes its test, or only the one that is wanted.

    Args:
        device: where the test allocates; the current one.
        wanted: "auto" or one of `NAMES`.
    """
    import torch

    reasons: list[str] = []
    if torch.cuda.get_allocator_backend() != "native":
        reasons.append("PyTorch's allocator is cudaMallocAsync, which has no pages to move")
    else:
        for name in NAMES[:-1]:
            if wanted not in ("auto", name):
                continue
            reason = _try(name, device)
            if not reason:
                CHOSEN.name, CHOSEN.reason = name, "; ".join(reasons)
                return
            reasons.append(reason)
    if wanted == "fraction":
        reasons.append("TIDE_CUDA_HOOK=fraction asks for no more")
    refuse("; ".join(reasons))


def refuse(reason: str) -> None:
    """Leaves device memory to PyTorch, limited by its own fraction."""
    CHOSEN.name, CHOSEN.reason = "fraction", reason


def _try(name: str, device: int) -> str:
    """One way; returns an empty string, or why not after everything has been put back."""
    expandable = name == "table"
    variable = user_says("expandable_segments:false") if expandable else ""
    if variable:
        return f"{variable} turns expandable segments off, which the table of driver calls needs"
    settings = _allocator_settings()
    _set_expandable(settings, expandable)
    try:
        reason = _INSTALL[name](device) or _self_test(device)
    except RuntimeError as error:  # out of memory, and any error of CUDA
        reason = str(error).splitlines()[0]
    if reason:
        remove(name)
        _set_expandable(settings, _expands(settings))
    return reason


def remove(name: str) -> None:
    """Takes a way back; what it has given out must be free already, or stay known to us."""
    adapter = _adapter.load()
    if name == "table":
        adapter.remove_cuda_slots()
    elif name == "malloc":
        adapter.restore_cuda_malloc()
    elif CHOSEN.pool is not None:
        pool, CHOSEN.pool = CHOSEN.pool, None
        pool.close()
        _RETIRED.append(pool)


_RETIRED: list[Pool] = []  # their functions are called as long as a tensor of theirs lives


def flush(device: int) -> None:
    """PyTorch's cache goes back to the driver; the device is idle."""
    import torch

    with torch.cuda.device(device):
        if CHOSEN.pool is not None and CHOSEN.pool.device == device:
            CHOSEN.pool.flush()
        else:
            torch._C._cuda_emptyCache()  # torch.cuda.empty_cache waits for the end of CUDA's start


def cached(device: int) -> int:
    """Bytes that a flush would give back, about: a page that a tensor uses in part stays."""
    import torch

    figures = torch.cuda.memory_stats(device)
    return int(
        figures.get("reserved_bytes.all.current", 0) - figures.get("allocated_bytes.all.current", 0)
    )


def _allocator_settings() -> str:
    """What PyTorch's allocator was told last, by the environment or by the program."""
    import torch

    snapshot: Any = torch.cuda.memory._snapshot()
    return str(snapshot["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"])


def _set_expandable(settings: str, on: bool) -> None:
    """Beside what was set before, all of which PyTorch would forget otherwise."""
    import torch

    rest = _EXPANDABLE.sub("", settings).strip(", ")
    words = [rest] if rest else []
    torch._C._accelerator_setAllocatorSettings(",".join([*words, f"expandable_segments:{on}"]))


def _expands(settings: str) -> bool:
    """Whether the user has asked for expandable segments, with us or without."""
    found = _EXPANDABLE.search(settings)
    return found is not None and found[1].lower() == "true"


def _install_table(device: int) -> str:
    return str(_adapter.load().install_cuda_slots(_core.cuda_api()))


def _install_malloc(device: int) -> str:
    return str(_adapter.load().redirect_cuda_malloc(_core.cuda_api()))


def _install_pool(device: int) -> str:
    reason = str(_adapter.load().serve_pool(_core.cuda_api()))
    if not reason:
        CHOSEN.pool = Pool(device)
        CHOSEN.pool.open()
    return reason


_INSTALL: dict[str, Callable[[int], str]] = {
    "table": _install_table,
    "malloc": _install_malloc,
    "pool": _install_pool,
}


def _self_test(device: int) -> str:
    """One allocation must be made of our pages, hold what is written, and come back."""
    import torch

    before = _core.cuda_report(device)
    block = torch.empty(_SELF_TEST_BYTES, dtype=torch.uint8, device=f"cuda:{device}")
    during = _core.cuda_report(device)
    pattern = torch.arange(256, dtype=torch.uint8)
    block[:256].copy_(pattern)
    exact = torch.equal(block[:256].cpu(), pattern)
    del block
    flush(device)
    after = _core.cuda_report(device)
    if during["creates"] == before["creates"]:
        return "an allocation of PyTorch did not reach our pages"
    if not exact:
        return "what was written to our pages was not read back"
    if after["reserved"] != before["reserved"]:
        return "an allocation of PyTorch was freed and its pages did not come back"
    return ""
