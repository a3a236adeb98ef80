"""The pool from which a job in a lane allocates during its iterations, and what is alive in it.

PyTorch routes allocations of all threads of a device to a pool until the route is ended: autograd's
too, which `torch.cuda.use_mem_pool` leaves out. The pool is an ordinary one, so it consists of
expandable segments, one a stream; only that of the stream on which the job trains is the lane's.
"""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

Ranges = list[tuple[int, int]]


@dataclasses.dataclass
class _Pool:
    pool: Any
    stream: int = 0
    routed: bool = False


_pools: dict[int, _Pool] = {}


def open_lane(device: int) -> None:
    """Routes allocations of the device to the pool, from all threads and streams."""
    import torch

    if device not in _pools:
        with torch.cuda.device(device):
            pool = torch.cuda.MemPool()
        # Never destroyed: its destructor ends the process where the device has failed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(pool))
        _pools[device] = _Pool(pool)
    own = _pools[device]
    if own.routed:
        return
    own.stream = torch.cuda.current_stream(device).cuda_stream
    torch._C._cuda_beginAllocateToPool(device, own.pool.id)
    own.routed = True


def close_lane(device: int) -> tuple[Ranges, Ranges]:
    """Ends the route and waits for the device.

    Returns:
        Addresses and sizes in bytes of the pool's segments on the training stream, and of the
        blocks in them that are in use: allocated, or freed while another stream may use them.
    """
    import torch

    own = _pools[device]
    if own.routed:
        own.routed = False
        torch._C._cuda_endAllocateToPool(device, own.pool.id)
        torch._C._cuda_releasePool(device, own.pool.id)
    torch.cuda.synchronize(device)
    # What was freed while other streams used it is looked at by the next allocation; before 2.13
    # not while a route is open.
    torch.empty(1, dtype=torch.uint8, device=f"cuda:{device}")
    segments: Ranges = []
    live: Ranges = []
    first, second = own.pool.id
    for segment in torch._C._cuda_memorySnapshot((first, second, False))["segments"]:
        if segment["device"] != device or segment["stream"] != own.stream:
            continue
        if not segment["is_expandable"]:
            continue
        segments.append((segment["address"], segment["total_size"]))
        live += [
            (block["address"], block["size"])
            for block in segment["blocks"]
            if block["state"] != "inactive"
        ]
    return segments, live
