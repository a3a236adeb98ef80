"""Takes over device memory when a job first uses CUDA, and not before.

PyTorch keeps a list of what to do once it starts CUDA. An entry there runs before the first
allocation, and never in a job that uses no device, which then has no context on one.
"""

from __future__ import annotations

import logging
import os

from torchtide import _core, _cuda_late, _cuda_platform, _cuda_ways
from torchtide._choices import chosen

_LOG = logging.getLogger("torchtide")
_CHOICES = ("auto", *_cuda_ways.NAMES, "off")


def check_option() -> None:
    """Refuses values of `cuda.hook`, `cuda.resume` and `cuda.nccl` that mean nothing.

    Raises:
        OptionError: with the choices.
    """
    chosen("cuda.hook", _CHOICES)
    _cuda_late.wanted()
    _cuda_platform.nccl_wanted()
    _cuda_platform.check_pause()


def install() -> None:
    """Waits for the first use of CUDA in this process; does nothing with `cuda.hook` off."""
    if _core.get_option("cuda.hook") == "off":
        return
    import torch

    pid = os.getpid()

    def first_use() -> None:
        if os.getpid() == pid:  # a forked child is no job
            _enable()

    torch.cuda._lazy_call(first_use)  # type: ignore[no-untyped-call]


def _enable() -> None:
    """Enables the hook, or says once why it is not there; the job goes on either way."""
    try:
        from torchtide import cuda

        said = cuda.enable()
    except Exception as error:  # whatever torch has changed: the program runs without the hook
        said = f"fraction: {type(error).__name__}: {' '.join(str(error).split())}"
    way, _, reason = said.partition(": ")
    if way == "fraction":
        _LOG.warning("torchtide: device memory stays PyTorch's own: %s", reason)
    elif reason:
        _LOG.info("torchtide: device memory is %s: %s", way, reason)
