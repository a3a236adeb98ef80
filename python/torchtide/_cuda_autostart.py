"""Takes over device memory when a job first uses CUDA, and not before.

PyTorch keeps a list of what to do once it starts CUDA. An entry there runs before the first
allocation, and never in a job that uses no device, which then has no context on one.
"""

from __future__ import annotations

import logging
import os

from torchtide import _core
from torchtide.errors import OptionError

_LOG = logging.getLogger("torchtide")
_CHOICES = ("auto", "off")
_NATIVE_OFF = "expandable_segments:false"


def check_option() -> None:
    """Refuses a value of `cuda.hook` that means nothing.

    Raises:
        OptionError: with the choices.
    """
    value = _core.get_option("cuda.hook")
    if value not in _CHOICES:
        raise OptionError(
            f"cuda.hook {value!r} is not one of {', '.join(_CHOICES)}",
            asked="start the job",
            advice="set TIDE_CUDA_HOOK=auto or TIDE_CUDA_HOOK=off",
        )


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

        reason = _refused() or cuda.enable().removeprefix("hooked")
    except Exception as error:  # whatever torch has changed: the program runs without the hook
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if reason:
        _LOG.warning(
            "torchtide: device memory stays PyTorch's own: %s", reason.removeprefix("fraction: ")
        )


def _refused() -> str:
    """Why the hook would go against what the user has set; empty: it would not."""
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        if _NATIVE_OFF in os.environ.get(name, "").replace(" ", "").lower():
            return f"{name} turns expandable segments off, which the hook needs"
    return ""
