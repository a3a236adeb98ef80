"""Device memory of this job behind PyTorch's own CUDA allocator: limits, moves, figures.

Under `tide run` and `@tide.job` it is enabled when the job first uses CUDA (option `cuda.hook`);
elsewhere by `enable()`. docs/guides/gpu.md says what is tested, and where.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import sys
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torchtide import (
    _core,
    _cuda_lane,
    _cuda_late,
    _cuda_platform,
    _cuda_tags,
    _cuda_ways,
    _notice,
)
from torchtide._cuda_tags import tag as tag
from torchtide._cuda_tags import untag as untag
from torchtide.errors import LimitConflict, TideError

if TYPE_CHECKING:
    import torch

__all__ = [
    "boundary",
    "disable",
    "enable",
    "enabled",
    "keep_cold",
    "memory_table",
    "report",
    "resume",
    "set_limit",
    "settle",
    "share",
    "suspend",
]

#: Tensors and optimizers whose memory is looked up when it is needed, and ranges of tensors that
#: were on a device when they were named.
_cold: list[weakref.ref[Any] | tuple[int, int]] = []


def enable(name: str | None = None) -> str:
    """Takes over what stands behind PyTorch's device memory, from the next allocation on.

    Tries, in this order: PyTorch's table of driver calls, for which `expandable_segments` is turned
    on unless the user has turned it off; the allocator's own cudaMalloc and cudaFree; a pool that
    all threads allocate from. The first whose allocation is made of our pages, holds what is
    written and comes back is kept; a way that does not fit is taken back. Where none fits, the
    share of the device stays PyTorch's own affair, limited by `set_per_process_memory_fraction`
    alone. The option `cuda.hook` names one way instead of all.

    Args:
        name: of the job, in reports; the script's by default.

    Returns:
        "hooked", "hooked through cudaMalloc", "pool" or "fraction"; after all but the first, ": "
        and why those before it were refused. `TIDE_DISABLE=1` refuses all.

    Raises:
        TideError: this PyTorch or this machine has no usable CUDA.
    """
    import torch

    if _core.get_option("disable") in ("1", "true", "yes", "on"):
        return "fraction: torchtide is switched off (TIDE_DISABLE=1)"
    if not torch.cuda.is_available():
        raise TideError(
            "PyTorch sees no CUDA device", asked="torchtide.cuda.enable()", advice="run tide doctor"
        )
    if enabled():
        return _cuda_ways.CHOSEN.said()
    _cuda_late.wanted()
    _cuda_platform.nccl_wanted()
    _notice.install()
    _cuda_platform.check_pause()
    if not name and _core.started():
        name = _core.name()
    _hook(name or pathlib.Path(sys.argv[0]).name or "python")
    if enabled():
        # Only expandable segments can change the memory behind them page by page.
        lanes = _cuda_ways.CHOSEN.name == "table"
        _core.cuda_set_framework(
            capturing=_capturing,
            flush=_cuda_ways.flush,
            cached=_cuda_ways.cached,
            cold=_cold_ranges,
            late=_late_ranges,
            layers=_layer_ranges if _cuda_late.layers_wanted() else None,
            unwanted=_cuda_tags.unwanted,
            watch=_cuda_late.watch if _cuda_late.layers_wanted() else None,
            communicators=_cuda_platform.move if _cuda_platform.nccl_wanted() else None,
            stream=_stream,
            open_lane=_cuda_lane.open_lane if lanes else None,
            close_lane=_cuda_lane.close_lane if lanes else None,
            why_not_deep=_cuda_platform.why_not_deep,
        )
        _core.cuda_set_checkpoint_command(_cuda_platform.checkpoint_command())
        _cuda_late.install()
        _observe_oom()
        if not _core.started():  # else the end of the job does it
            atexit.register(_notice.tell)
            atexit.register(_core.cuda_retire)  # runs before it
    return _cuda_ways.CHOSEN.said()


def disable() -> None:
    """Gives PyTorch its own memory calls back.

    Raises:
        TideError: memory that is alive is known to PyTorch by our names, and only we can free it.
    """
    import torch

    if not enabled():
        return
    for device in range(torch.cuda.device_count()):
        figures = _core.cuda_report(device)
        if figures["reserved"] > 0:
            raise TideError(
                f"{figures['reserved']} bytes of device {device} are known to PyTorch by our names",
                asked="torchtide.cuda.disable()",
                advice="free the tensors and call torch.cuda.empty_cache() first",
            )
    _cuda_ways.remove(_cuda_ways.CHOSEN.name)
    _cuda_ways.CHOSEN.name = ""


def enabled() -> bool:
    """Whether PyTorch's device memory is ours in this process."""
    return bool(_core.cuda_started() and _cuda_ways.CHOSEN.name not in ("", "fraction"))


def set_limit(limit: int | str | None, device: int | None = None) -> dict[str, Any]:
    """Moves this job's limit on one device; the device is idle when this returns.

    Below what is reserved, PyTorch's cache is flushed first; then cold pages (`keep_cold`) move to
    host memory that the device maps, where the driver offers that. A job whose hook was refused
    gets PyTorch's own fraction instead.

    Args:
        limit: bytes or text; None or 0 for no limit.
        device: index; the current device by default.

    Returns:
        status ("applied" or "fraction"), moved bytes, reason.

    Raises:
        LimitConflict: what is in use cannot shrink that far; the old limit stays.
    """
    import torch

    device = torch.cuda.current_device() if device is None else device
    size = _core.parse_bytes(str(limit)) if limit else 0
    if not enabled():
        total = torch.cuda.get_device_properties(device).total_memory
        share = min(size / total, 1.0) if size else 1.0
        torch.cuda.set_per_process_memory_fraction(share, device)
        return {"status": "fraction", "moved": 0, "reason": "PyTorch's own limit, not movable down"}
    old = _core.cuda_report(device)["limit"]
    over = _core.cuda_set_limit(device, size)
    answer: dict[str, Any] = {"status": "applied", "moved": 0, "reason": "within the new limit"}
    if over > 0:
        try:
            answer |= _core.cuda_make_room(device, over)
        except BaseException:
            _core.cuda_set_limit(device, old)
            raise
        if answer["short_by"] > 0:
            _core.cuda_set_limit(device, old)
            _core.cuda_restore(device)
            raise LimitConflict(
                f"{answer['short_by']} bytes are too many ({answer['reason']})",
                asked=f"set_limit({limit!r}, device={device})",
                advice="free tensors, suspend the job, or choose a larger limit",
                parts={key: _core.cuda_report(device)[key] for key in ("device", "host_mapped")},
            )
    elif not _core.cuda_report(device)["suspended"]:
        torch.cuda.synchronize(device)
        _core.cuda_restore(device)
    return answer


def keep_cold(tensors: Iterable[torch.Tensor] | torch.optim.Optimizer) -> int:
    """Names tensors that an iteration touches once or never: their pages leave first.

    They leave at a boundary when memory shrinks, and inside an iteration when an allocation is
    refused: to host memory that the device maps, where operations read them in place.

    May come before `enable`. The state of an optimizer is looked up whenever pages have to leave,
    so it need not exist yet; so are tensors that are not on a device yet.

    Args:
        tensors: tensors, or an optimizer whose state is meant.

    Returns:
        Bytes on a device now.
    """
    import torch

    if isinstance(tensors, torch.optim.Optimizer):
        _cold[:] = [weakref.ref(tensors)]
    else:
        _cold[:] = [_range(one) if one.is_cuda else weakref.ref(one) for one in tensors]
    if _core.cuda_started():
        _core.cuda_look_up_cold()
    return sum(size for _, size in _cold_ranges())


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _cold_ranges() -> list[tuple[int, int]]:
    """Addresses and sizes of what was named, as they are now."""
    import torch

    def tensors(named: Any) -> Iterator[torch.Tensor]:
        if isinstance(named, torch.optim.Optimizer):
            yield from _cuda_late.state_of(named)
        elif named is not None:
            yield named

    ranges = {named for named in _cold if isinstance(named, tuple)}
    for named in _cold:
        if not isinstance(named, tuple):
            ranges |= {_range(tensor) for tensor in tensors(named()) if tensor.is_cuda}
    return sorted(ranges)


def _late_ranges() -> list[tuple[int, int]]:
    """Addresses and sizes of what an iteration touches last, if at all."""
    return sorted({_range(one) for one in _cuda_late.tensors(_named_cold()) if one.is_cuda})


def _layer_ranges() -> list[tuple[int, int]]:
    """The same of what may come back layer by layer."""
    return sorted({_range(one) for one in _cuda_late.parameters(_named_cold()) if one.is_cuda})


def _named_cold() -> list[torch.optim.Optimizer]:
    import torch

    named = [one() for one in _cold if not isinstance(one, tuple)]
    return [one for one in named if isinstance(one, torch.optim.Optimizer)]


def settle() -> None:
    """Waits until all that a pipelined resume has left for later is back (`cuda.resume`).

    For programs that look at `optimizer.state` themselves before the optimizer's step; `step`,
    `state_dict`, `load_state_dict`, copies and boundaries do it by themselves. Any thread. Costs
    nothing when nothing is on its way.

    Raises:
        RuntimeError: the driver or the spill file failed; the call may be repeated.
    """
    _core.cuda_finish_return()


def share(fraction: float, device: int | None = None) -> contextlib.AbstractContextManager[int]:
    """Runs what is inside on a share of the device's multiprocessors, where the driver offers it.

    Inside, the current stream is one of a green context: kernels started there run on that share
    alone. It begins when the current stream's work is done, and what follows waits for it. Memory
    is the same. Libraries that start streams of their own (NCCL) are not bound by it; nothing may
    be allocated on another stream of the device inside. Captures of graphs are not tested in it.

        with torchtide.cuda.share(0.5):
            loss = step(batch)

    Args:
        fraction: 0.25, 0.5, 0.75 or 1.0, of which the last changes nothing.
        device: index; the current device by default.

    Returns:
        A context whose value is the number of multiprocessors; the driver rounds up.

    Raises:
        ValueError: another fraction.
        NotImplementedError: this driver has no green contexts.
        TideError: device memory has not been started (`enable`).
    """
    import torch

    if not _core.cuda_started():
        raise TideError(
            "the driver has not been opened in this process",
            asked=f"torchtide.cuda.share({fraction})",
            advice="call torchtide.cuda.enable() before",
        )
    return _cuda_platform.share(fraction, torch.cuda.current_device() if device is None else device)


def boundary(device: int | None = None) -> dict[str, Any]:
    """Between two iterations: gives others what they asked for, and takes back what fits.

    Boundaries of a job (`tide run`, `@tide.job`, `tide.iterations`) do this for all devices.

    Returns:
        asked and given bytes.
    """
    import torch

    if not enabled():
        return {"asked": 0, "given": 0}
    answer: dict[str, Any] = _core.cuda_boundary(
        torch.cuda.current_device() if device is None else device
    )
    _notice.tell()
    return answer


def suspend(device: int | None = None, *, to_file: bool = False) -> int:
    """Empties the device of this job's pages; addresses stay, so nothing may run until `resume`.

    Call it between iterations, from the thread that trains. Pages that other processes share stay.

    Args:
        device: index; the current device by default.
        to_file: to the spill file instead of pinned host memory.

    Returns:
        Bytes given back.
    """
    import torch

    device = _require(device)
    torch.cuda.synchronize(device)
    _cuda_ways.flush(device)
    before = _core.cuda_report(device)["device"]
    _cuda_platform.move(True)
    try:
        _core.cuda_suspend(device, to_file)
    except BaseException:
        _cuda_platform.move(False)
        _cuda_tags.rebuild(device)  # what was dropped may be back
        raise
    return int(before - _core.cuda_report(device)["device"])


def resume(device: int | None = None) -> None:
    """Brings a suspended job's pages back to their addresses.

    With `cuda.resume=pipelined` the state of optimizers may still be on its way when this returns,
    and with `layers` parameters too; see `settle`.

    Raises:
        MemoryError: others use the memory now; all pages stay away, the call may be repeated.
    """
    device = _require(device)
    _core.cuda_resume(device)
    _cuda_platform.move(False)
    _cuda_tags.rebuild(device)


def report(device: int | None = None) -> dict[str, Any]:
    """Figures of one device in bytes, ours beside PyTorch's, and the way to them.

    `torch_reserved` counts pages that are away as reserved, since PyTorch cannot know: `device` is
    what really lies on the device for this job. `way` is "table", "malloc", "pool" or, where all
    were refused, "fraction", which has PyTorch's figures alone; `way_reason` says why the ways
    before it were refused. `deep` says what became of the last deep pause (`cuda.pause`); while
    the contexts are away, `total`, `free` and `outside` are 0: the driver cannot be asked.
    """
    import torch

    chosen = _cuda_ways.CHOSEN
    if chosen.name == "fraction":
        device = torch.cuda.current_device() if device is None else device
        figures: dict[str, Any] = {}
    else:
        device = _require(device)
        figures = _core.cuda_report(device)
        figures["offers"] = _cuda_platform.report(device)
    figures["way"], figures["way_reason"] = chosen.name, chosen.reason
    figures["tags"] = _cuda_tags.report()
    figures["torch_reserved"] = torch.cuda.memory_reserved(device)
    figures["torch_allocated"] = torch.cuda.memory_allocated(device)
    return figures


def memory_table(device: int | None = None) -> str:
    """Who holds what on the device, as text; also what an out-of-memory error finds."""
    return _core.cuda_memory_table(_require(device))


_observes_oom = False
last_oom: str = ""  # the table at the last out-of-memory error of this process


def _remember_oom(device: int, size: int, total: int, free: int) -> None:
    global last_oom
    del total, free
    last_oom = f"asked for {size} bytes on device {device}\n" + _core.cuda_memory_table(device)


def _require(device: int | None) -> int:
    import torch

    if not enabled():
        raise TideError(
            "device memory is not managed in this process",
            asked="torchtide.cuda",
            advice="call torchtide.cuda.enable() before the first allocation",
        )
    if device is None and _core.cuda_frozen():  # a question to CUDA would wait for the resume
        return next(iter(_core.cuda_suspended_devices()), 0)
    return torch.cuda.current_device() if device is None else device


def _capturing() -> bool:
    import torch

    return bool(torch.cuda.is_current_stream_capturing())


def _stream(device: int) -> int:
    import torch

    return int(torch.cuda.current_stream(device).cuda_stream)


def _hook(name: str) -> None:
    """Chooses a way, which may be none, with the reasons."""
    import torch

    wanted = _core.get_option("cuda.hook")
    try:
        _core.cuda_start(name)
    except (KeyError, ValueError, OSError, RuntimeError, MemoryError) as error:
        _cuda_ways.refuse(str(error.args[0] if error.args else error))
        return
    # The runtime starts the driver on this thread before its table can be asked for.
    torch.cuda.init()  # type: ignore[no-untyped-call]
    with torch.cuda.device(_own_device()):
        device = torch.cuda.current_device()
        torch.cuda.synchronize(device)
        _cuda_ways.choose(device, "auto" if wanted == "off" else wanted)


def _observe_oom() -> None:
    """Once a process: PyTorch has no call that takes an observer back."""
    import torch

    global _observes_oom
    if not _observes_oom:
        attach: Any = getattr(torch._C, "_cuda_attach_out_of_memory_observer")  # noqa: B009
        attach(_remember_oom)
    _observes_oom = True


def _own_device() -> int:
    """Where a context is made for the self-test: the device that this rank will use."""
    import torch

    with contextlib.suppress(ValueError):
        local_rank = int(os.environ.get("LOCAL_RANK", ""))
        if 0 <= local_rank < torch.cuda.device_count():
            return local_rank
    return torch.cuda.current_device()
