"""State and parameters may come back while an iteration already runs (option `cuda.resume`).

An optimizer of torch.optim touches its state in `step`, and when it is saved, loaded or copied. All
of these wait here until the state is back. What a program does with `optimizer.state` by itself is
not seen: it calls `torchtide.cuda.settle()` before.

Parameters are used by operators. With `layers` every operator of the iteration after a resume waits
for what it uses, which also shows in which order that is. A parameter comes late only if an
operator was seen to be the first to use it in an earlier forward.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torchtide import _adapter, _core
from torchtide._choices import chosen

if TYPE_CHECKING:
    import torch

_TOUCHING = ("state_dict", "load_state_dict", "__getstate__")  # the last: pickled or deep-copied
_stepped: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
_installed = False


def wanted() -> bool:
    """Whether a resume leaves the state of optimizers for later.

    Raises:
        OptionError: `cuda.resume` is none of its choices.
    """
    return _chosen() != "whole"


def layers_wanted() -> bool:
    """Whether parameters come layer by layer; raises as `wanted`."""
    return _chosen() == "layers"


def _chosen() -> str:
    return chosen("cuda.resume", ("whole", "pipelined", "layers"))


def watch(on: bool) -> None:
    """Has operators wait for what they use on devices, or no more."""
    _adapter.load().arm_use_gate(_core.cuda_api(), on)


def install() -> None:
    """Has each use of an optimizer's state wait for it; once a process, and only where wanted."""
    global _installed
    if _installed or not wanted():
        return
    _installed = True
    from torch.optim import optimizer

    optimizer.register_optimizer_step_pre_hook(_before_step)
    optimizer.register_optimizer_step_post_hook(_after_step)
    for name in _TOUCHING:
        _wrap(optimizer.Optimizer, name)


def _wrap(kind: type, name: str) -> None:
    method = getattr(kind, name)

    @functools.wraps(method)
    def settled(self: Any, *args: Any, **kwargs: Any) -> Any:
        _core.cuda_finish_return()
        return method(self, *args, **kwargs)

    setattr(kind, name, settled)


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    _core.cuda_end_forward()
    _core.cuda_finish_return()


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    _stepped.add(optimizer)


def state_of(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """Tensors of an optimizer's state."""
    import torch

    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def tensors(named: list[torch.optim.Optimizer]) -> Iterator[torch.Tensor]:
    """What may come back late: the state of torch's own optimizers and of those that are named.

    Others may touch their state between steps. One that a CUDA graph captures does so in a replay,
    which no hook sees.
    """
    if not wanted():
        return
    for optimizer in _known(named):
        yield from state_of(optimizer)


def _known(named: list[torch.optim.Optimizer]) -> Iterator[torch.optim.Optimizer]:
    for optimizer in {*named, *_stepped}:
        own = type(optimizer).__module__.startswith("torch.optim.") or optimizer in named
        if own and not any(group.get("capturable") for group in optimizer.param_groups):
            yield optimizer


#: Loaded where something was compiled: its kernels are launched past PyTorch's dispatcher, and
#: before the first of them all parameters are handed over, so that nothing could come late.
_COMPILERS = ("torch._inductor.compile_fx", "torch._dynamo.backends.cudagraphs")


def parameters(named: list[torch.optim.Optimizer]) -> Iterator[torch.Tensor]:
    """What operators alone may use in a forward: parameters of the same optimizers.

    Subclasses of tensors are left out: what lies behind them is theirs.
    """
    import torch

    if any(name in sys.modules for name in _COMPILERS):
        return
    for optimizer in _known(named):
        for group in optimizer.param_groups:
            plain = (torch.Tensor, torch.nn.Parameter)
            yield from (one for one in group["params"] if type(one) in plain)
