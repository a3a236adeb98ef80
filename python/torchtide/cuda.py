"""Device memory of this job behind PyTorch's own CUDA allocator: limits, moves, figures.

Under `tide run` and `@tide.job` it is enabled when the job first uses CUDA (option `cuda.hook`);
elsewhere by `enable()`. docs/guides/gpu.md says what is tested, and where.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import re
import sys
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torchtide import _adapter, _core, _cuda_lane
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
    "suspend",
]

_SELF_TEST_BYTES = 24 << 20  # above 10 MiB a request gets a segment of its own
_EXPANDABLE = re.compile(r"(?:^|,)\s*expandable_segments\s*:\s*(\w+)\s*", re.IGNORECASE)
#: Tensors and optimizers whose memory is looked up when it is needed, and ranges of tensors that
#: were on a device when they were named.
_cold: list[weakref.ref[Any] | tuple[int, int]] = []


def enable(name: str | None = None) -> str:
    """Takes over what stands behind PyTorch's device memory, from the next allocation on.

    Turns `expandable_segments` on, finds PyTorch's table of driver calls, points it at our pages
    and tries an allocation. When something does not fit, everything is put back and the share of
    the device stays PyTorch's own affair, limited by `set_per_process_memory_fraction` alone.

    Args:
        name: of the job, in reports; the script's by default.

    Returns:
        "hooked", or "fraction: " and the reason why the hook was refused; `TIDE_DISABLE=1` is one.

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
        return "hooked"
    if not name and _core.started():
        name = _core.name()
    reason = _hook(name or pathlib.Path(sys.argv[0]).name or "python")
    if reason:
        return f"fraction: {reason}"
    _core.cuda_set_framework(
        _capturing, _flush, _cold_ranges, _cuda_lane.open_lane, _cuda_lane.close_lane
    )
    attach: Any = getattr(torch._C, "_cuda_attach_out_of_memory_observer")  # noqa: B009
    attach(_remember_oom)
    if not _core.started():  # else the end of the job does it
        atexit.register(_core.cuda_retire)
    return "hooked"


def disable() -> None:
    """Puts PyTorch's table back; memory that is alive stays where it is and is given back as usual.

    Raises:
        TideError: pages are away from the device, and only we can bring them back.
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
    _adapter.load().remove_cuda_slots()


def enabled() -> bool:
    """Whether PyTorch's device memory is ours in this process."""
    return bool(_core.cuda_started() and _adapter.load().cuda_slots_installed())


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
    return sum(size for _, size in _cold_ranges())


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _cold_ranges() -> list[tuple[int, int]]:
    """Addresses and sizes of what was named, as they are now."""
    import torch

    def tensors(named: Any) -> Iterator[torch.Tensor]:
        if isinstance(named, torch.optim.Optimizer):
            for state in named.state.values():
                yield from (value for value in state.values() if isinstance(value, torch.Tensor))
        elif named is not None:
            yield named

    ranges = {named for named in _cold if isinstance(named, tuple)}
    for named in _cold:
        if not isinstance(named, tuple):
            ranges |= {_range(tensor) for tensor in tensors(named()) if tensor.is_cuda}
    return sorted(ranges)


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
    torch.cuda.empty_cache()
    before = _core.cuda_report(device)["device"]
    _core.cuda_suspend(device, to_file)
    return int(before - _core.cuda_report(device)["device"])


def resume(device: int | None = None) -> None:
    """Brings a suspended job's pages back to their addresses, whole.

    Raises:
        MemoryError: others use the memory now; all pages stay away, the call may be repeated.
    """
    device = _require(device)
    _core.cuda_resume(device)


def report(device: int | None = None) -> dict[str, Any]:
    """Figures of one device in bytes, ours beside PyTorch's.

    `torch_reserved` counts pages that are away as reserved, since PyTorch cannot know: `device` is
    what really lies on the device for this job.
    """
    import torch

    device = _require(device)
    figures: dict[str, Any] = _core.cuda_report(device)
    figures["torch_reserved"] = torch.cuda.memory_reserved(device)
    figures["torch_allocated"] = torch.cuda.memory_allocated(device)
    return figures


def memory_table(device: int | None = None) -> str:
    """Who holds what on the device, as text; also what an out-of-memory error finds."""
    return _core.cuda_memory_table(_require(device))


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
    return torch.cuda.current_device() if device is None else device


def _capturing() -> bool:
    import torch

    return bool(torch.cuda.is_current_stream_capturing())


def _flush(device: int) -> None:
    """PyTorch's cache goes back to the driver; the device is idle."""
    import torch

    with torch.cuda.device(device):
        _empty_cache()


def _empty_cache() -> None:
    """As torch.cuda.empty_cache, which does nothing while CUDA is still being started."""
    import torch

    torch._C._cuda_emptyCache()


def _hook(name: str) -> str:
    """Installs and tries the hook; returns an empty string or why it is not there."""
    import torch

    adapter = _adapter.load()
    try:
        _core.cuda_start(name)
    except (KeyError, ValueError, OSError, RuntimeError, MemoryError) as error:
        return str(error.args[0] if error.args else error)
    # The runtime starts the driver on this thread before its table can be asked for.
    torch.cuda.init()  # type: ignore[no-untyped-call]
    with torch.cuda.device(_own_device()):
        device = torch.cuda.current_device()
        settings = _allocator_settings()
        _set_expandable(settings, True)
        torch.cuda.synchronize(device)
        reason: str = adapter.install_cuda_slots(_core.cuda_api())
        if not reason:
            try:
                reason = _self_test(device)
            except RuntimeError as error:  # out of memory, and any error of CUDA
                reason = str(error).splitlines()[0]
        if reason:
            adapter.remove_cuda_slots()
            _set_expandable(settings, _expands(settings))
    return reason


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


def _own_device() -> int:
    """Where a context is made for the self-test: the device that this rank will use."""
    import torch

    with contextlib.suppress(ValueError):
        local_rank = int(os.environ.get("LOCAL_RANK", ""))
        if 0 <= local_rank < torch.cuda.device_count():
            return local_rank
    return torch.cuda.current_device()


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
    _empty_cache()
    after = _core.cuda_report(device)
    if during["creates"] == before["creates"]:
        return "an allocation of PyTorch did not reach our pages (expandable_segments is off?)"
    if not exact:
        return "what was written to our pages was not read back"
    if after["reserved"] != before["reserved"]:
        return "an allocation of PyTorch was freed and its pages did not come back"
    return ""
