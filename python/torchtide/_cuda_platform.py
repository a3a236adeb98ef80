"""Offers of a driver or a PyTorch: shares of multiprocessors, what else may leave in a pause."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from torchtide import _core
from torchtide._choices import chosen

_SHARES = (0.25, 0.5, 0.75, 1.0)


@contextlib.contextmanager
def share(fraction: float, device: int) -> Iterator[int]:
    """See `torchtide.cuda.share`."""
    import torch

    if fraction not in _SHARES:
        raise ValueError(f"a share of {fraction}; it may be one of {_SHARES}")
    if fraction == 1.0:
        yield torch.cuda.get_device_properties(device).multi_processor_count
        return
    stream, multiprocessors = _core.cuda_share(device, round(100 * fraction))
    external: Any = torch.cuda.ExternalStream
    inside = external(stream, device=device)
    with torch.cuda.device(device):
        outside = torch.cuda.current_stream(device)
        inside.wait_stream(outside)
        try:
            with torch.cuda.stream(inside):
                yield multiprocessors
        finally:
            outside.wait_stream(inside)


def nccl_wanted() -> bool:
    """Whether a pause takes the memory of NCCL's communicators too.

    Raises:
        OptionError: `cuda.nccl` is neither of its choices.
    """
    return chosen("cuda.nccl", ("keep", "suspend")) == "suspend"


def communicators() -> list[Any]:
    """Backends of this process that can suspend their communicators (NCCL, PyTorch 2.12 on)."""
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return []
    found: dict[int, Any] = {}
    for group in torch.distributed.distributed_c10d._world.pg_map:
        with contextlib.suppress(RuntimeError):  # a group without a backend for devices
            backend = group._get_backend(torch.device("cuda"))
            if "nccl" in backend.name() and hasattr(backend, "suspend"):
                found[id(backend)] = backend
    return list(found.values())


_suspended: list[Any] = []


def suspend_communicators() -> None:
    """Has the memory of communicators leave; all of them, or none.

    Raises:
        RuntimeError: of NCCL; those that had left are back, as far as they let themselves.
    """
    if not nccl_wanted():
        return
    for backend in communicators():
        try:
            backend.suspend()
        except RuntimeError:
            resume_communicators()
            raise
        _suspended.append(backend)


def resume_communicators() -> None:
    """Brings back what `suspend_communicators` has sent away.

    Raises:
        RuntimeError: of NCCL; that communicator and those after it are still away, and the call may
            be repeated.
    """
    while _suspended:
        _suspended[-1].resume()
        _suspended.pop()


def move(away: bool) -> None:
    """For the core, around a suspension."""
    if away:
        suspend_communicators()
    else:
        resume_communicators()


def check_pause() -> None:
    """Raises OptionError where `cuda.pause` is none of its choices."""
    chosen("cuda.pause", ("pages", "deep"))


def checkpoint_command() -> list[str]:
    """What starts the helper that has the driver checkpoint this process; empty without a Python.

    No site-packages and no variables of Python: neither our hooks nor others' start in it.
    """
    script = pathlib.Path(__file__).with_name("_deep.py")
    return [sys.executable, "-I", "-S", str(script)] if sys.executable else []


def why_not_deep() -> str:
    """Why the driver must not checkpoint this process now, or nothing."""
    import torch

    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return ""
    for group in distributed.distributed_c10d._world.pg_map:
        with contextlib.suppress(RuntimeError):  # a group without a backend for devices
            backend = group._get_backend(torch.device("cuda"))
            if "nccl" in backend.name() and group.size() > 1:
                return "it has communicators of NCCL, with which a checkpoint may not end"
    return ""


def report(device: int) -> dict[str, str]:
    """What is offered here, each "yes" or "no" and why; nothing is made for it."""
    offered = {}
    try:
        if _core.cuda_frozen():
            offered["shares"] = "not asked: the contexts of this job are away"
        else:
            offered["shares"] = f"yes, of {_core.cuda_shareable(device)} multiprocessors"
    except Exception as error:  # of the driver, whatever it is
        offered["shares"] = f"no: {error}"
    import torch

    nccl = getattr(torch._C._distributed_c10d, "ProcessGroupNCCL", None)
    if nccl is None:
        offered["communicators"] = "no: this PyTorch has no NCCL"
    elif not hasattr(nccl, "suspend"):
        offered["communicators"] = "no: PyTorch 2.12 is the first whose communicators can leave"
    else:
        offered["communicators"] = f"yes, and cuda.nccl is {_core.get_option('cuda.nccl')}"
    offered["checkpoint"] = (
        f"yes, by the driver, and cuda.pause is {_core.get_option('cuda.pause')}"
        if _core.cuda_offers_checkpoint()
        else "no: CUDA 12.8 is the first that has it"
    )
    return offered
