"""A cell that trains is interrupted at each instruction of the hooks and of torch's grad mode."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import torch
from checks import check, main
from torch import nn
from torchtide import _core, notebook, runtime
from torchtide._gate import GATE

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
optimizer = torch.optim.Adam(model.parameters())


def step() -> None:
    loss = model(torch.randn(4, 512)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train_on() -> None:
    _core.validate()
    step()


class Interrupter:
    """Raises KeyboardInterrupt before the instruction of that number in the frames that count."""

    def __init__(self, at: int, counts: Callable[[FrameType], bool]) -> None:
        self.left = at
        self.where = ""
        self._counts = counts

    def called(self, frame: FrameType, event: str, _: Any) -> Any:
        if not self._counts(frame):
            return None
        frame.f_trace_opcodes = True
        return self.reached

    def reached(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            if self.left == 0:
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}+{frame.f_lasti}"
            self.left -= 1
            if self.left == -1:
                raise KeyboardInterrupt
        return self.reached


def cell(extension: notebook.Extension, body: Callable[[], None]) -> Any:
    """Runs code as a shell does: what it raised is in the result."""
    extension.before_cell()
    result = SimpleNamespace(error_in_exec=None)
    try:
        body()
    except BaseException as error:
        result.error_in_exec = error
    finally:
        sys.settrace(None)
    extension.after_cell(result)
    return result


def interrupted_everywhere(counts: Callable[[FrameType], bool]) -> int:
    """How many instructions there were; after each the next cell must train."""
    extension = notebook.Extension(SimpleNamespace())
    for at in range(100_000):
        interrupter = Interrupter(at, counts)

        def one_step(interrupter: Interrupter = interrupter) -> None:
            step()
            sys.settrace(interrupter.called)
            step()  # ends the iteration of the one before

        error = cell(extension, one_step).error_in_exec
        if not interrupter.where:
            assert error is None, error
            return at
        assert isinstance(error, KeyboardInterrupt), (interrupter.where, error)
        assert not GATE.open, interrupter.where
        next_cell = cell(extension, train_on)
        assert next_cell.error_in_exec is None, (interrupter.where, next_cell.error_in_exec)
    raise AssertionError("a step without end")


@check
def an_interrupt_in_the_hooks_leaves_all_in_order() -> None:
    assert interrupted_everywhere(lambda f: "torchtide" in f.f_code.co_filename) > 200


@check
def an_interrupt_in_torchs_grad_mode_does_not_leave_gradients_off() -> None:
    def counts(frame: FrameType) -> bool:
        module = str(frame.f_globals.get("__name__"))
        return module == "torch.autograd.grad_mode" or frame.f_code.co_name == "_use_grad"

    assert interrupted_everywhere(counts) > 20


@check
def what_a_cell_has_switched_off_stays_off() -> None:
    extension = notebook.Extension(SimpleNamespace())

    def switch_off() -> None:
        torch.set_grad_enabled(False)
        raise KeyboardInterrupt

    cell(extension, switch_off)
    assert not torch.is_grad_enabled()
    with torch.enable_grad():
        pass
    cell(extension, lambda: None)
    assert not torch.is_grad_enabled()
    torch.set_grad_enabled(True)


if __name__ == "__main__":
    runtime.start(name="notebook")
    GATE.adopt()
    for _ in range(6):
        step()
    main()
