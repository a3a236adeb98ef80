"""Gradients as the exchange sums them: dense arrays; a sparse one also marks its rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import nn

from torchtide import _core
from torchtide.errors import OptionError

ELEMENT_TYPES: Final = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}


class _Early:
    """Folds one worker's gradients while backward makes them.

    A script may still change a gradient between `run.backward` and `run.step`, also behind the back
    of torch's version counter (`p.grad.data`), when it may have been sent. So a checksum is kept of
    each as it was folded.
    """

    def __init__(
        self,
        exchange: Any,
        parameters: Sequence[torch.Tensor],
        dense: Callable[[int, torch.Tensor], torch.Tensor],
    ) -> None:
        """Hooks the parameters for good; outside of `begin` and `finish` a hook does nothing."""
        self._exchange, self._parameters, self._dense = exchange, parameters, dense
        self.worker = -1
        self.open = False
        self._checksums: dict[int, int] = {}
        for index, parameter in enumerate(parameters):
            take = functools.partial(self._take, index)
            parameter.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]

    def begin(self, worker: int) -> None:
        """The next backward is the one; after one that failed, `finish` folds the gradients."""
        if self.worker == worker:
            return
        self._exchange.push(worker)
        self.worker, self.open = worker, True
        self._checksums.clear()

    def finish(self) -> bool:
        """Folds what no hook has seen. False: a gradient is not what it was."""
        self.open = False
        self.worker = -1
        unchanged = True
        for index, parameter in enumerate(self._parameters):
            gradient = parameter.grad
            if index not in self._checksums:
                self._fold(index, gradient)
            elif gradient is None:
                unchanged = False
            elif unchanged:
                unchanged = _checksum(self._dense(index, gradient)) == self._checksums[index]
        return unchanged

    def _take(self, index: int, parameter: torch.Tensor) -> None:
        if self.open and index not in self._checksums:
            assert parameter.grad is not None
            self._checksums[index] = self._fold(index, parameter.grad)

    def _fold(self, index: int, gradient: torch.Tensor | None) -> int:
        if gradient is None:
            self._exchange.fold_one(index, 0)
            return 0
        dense = self._dense(index, gradient)
        self._exchange.fold_one(index, dense.data_ptr())
        return _checksum(dense)


def _checksum(tensor: torch.Tensor) -> int:
    return int(_core.elastic_checksum(tensor.data_ptr(), tensor.nbytes))


class Gradients:
    """Folds the gradients of logical workers into an exchange, and puts their mean back.

    A sparse gradient travels as the whole table and one mark for each row: the tree adds up the
    marks like everything else, so that a row is touched if any logical worker has touched it,
    whoever carried that worker. One mark more says that some worker's gradient was dense.
    """

    def __init__(self, model: nn.Module, parameters: Sequence[torch.Tensor]) -> None:
        """Looks for embeddings with sparse gradients; `attach` has to follow."""
        self._parameters = list(parameters)
        tables = {
            id(module.weight)
            for module in model.modules()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
        }
        self._marked = [i for i, p in enumerate(self._parameters) if id(p) in tables]
        self._means: list[torch.Tensor] = []
        self._marks: dict[int, torch.Tensor] = {}
        self._early: _Early | None = None

    def sizes(self) -> list[tuple[int, int]]:
        """Element type and number of elements of each array of the exchange."""
        found = [(ELEMENT_TYPES[p.dtype], p.numel()) for p in self._parameters]
        marks = [self._parameters[i].shape[0] + 1 for i in self._marked]
        return found + [(ELEMENT_TYPES[torch.float32], count) for count in marks]

    def attach(self, exchange: Any) -> None:
        """Makes views of the arrays in which the exchange leaves the mean."""
        self._exchange = exchange
        flat = torch.frombuffer(exchange.gradients(), dtype=torch.uint8)
        offsets = exchange.offsets()
        self._means = [
            flat[at : at + p.nbytes].view(p.dtype).view(p.shape)
            for at, p in zip(offsets, self._parameters, strict=False)
        ]
        for at, index in zip(offsets[len(self._parameters) :], self._marked, strict=True):
            rows = self._parameters[index].shape[0] + 1
            self._marks[index] = flat[at : at + 4 * rows].view(torch.float32)

    def fold_during_backward(self, worker: int) -> None:
        """Lets each gradient of the next backward be folded when it is there.

        `worker` is the last one of this process, and its gradients will be complete then; `fold`
        is called as always. Does nothing where the exchange gains nothing by it.
        """
        if self._marked or not getattr(self._exchange, "overlaps", False):
            return
        if self._early is None:
            self._early = _Early(self._exchange, self._parameters, self._one)
        self._early.begin(worker)

    def backward_is_over(self) -> None:
        """What is added to gradients from now on has not been announced."""
        if self._early is not None:
            self._early.open = False

    def fold(self, worker: int) -> None:
        """Adds the parameters' gradients as those of `worker`, and drops them."""
        if self._early is not None and self._early.worker == worker:
            if not self._early.finish():
                self._exchange.fold_changed()
            self.clear()
            return
        kept: list[torch.Tensor] = []  # alive until they have been added
        addresses, marks = [], []
        for index, parameter in enumerate(self._parameters):
            gradient = parameter.grad
            mark = None
            if gradient is not None:
                dense, mark = self._dense(index, gradient)
                kept.append(dense)
            addresses.append(0 if gradient is None else kept[-1].data_ptr())
            if index in self._marks:
                marks.append(0 if mark is None else mark.data_ptr())
                kept.extend([] if mark is None else [mark])
        self._exchange.fold(worker, addresses + marks)
        self.clear()

    def fold_absent(self, worker: int) -> None:
        """Adds zeros: the worker has no samples in this step."""
        self._exchange.fold(worker, [0] * (len(self._parameters) + len(self._marked)))

    def install(self) -> None:
        """Gives each parameter that was used its mean gradient, sparse ones as dense arrays yet."""
        for parameter, mean, used in zip(
            self._parameters, self._means, self._exchange.used(), strict=False
        ):
            parameter.grad = mean if used else None

    def sparsify(self) -> None:
        """Leaves of the dense arrays of sparse gradients the rows that were touched."""
        for index, marks in self._marks.items():
            parameter = self._parameters[index]
            dense = parameter.grad
            if dense is None or marks[-1] != 0:
                continue
            rows = marks[:-1].nonzero().flatten()
            parameter.grad = torch.sparse_coo_tensor(
                rows[None], dense[rows], dense.shape, is_coalesced=True, check_invariants=False
            )

    def clear(self) -> None:
        """No parameter has a gradient afterwards."""
        for parameter in self._parameters:
            parameter.grad = None

    def _one(self, index: int, gradient: torch.Tensor) -> torch.Tensor:
        return self._dense(index, gradient)[0]

    def _dense(
        self, index: int, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The gradient as an array, and the marks of its rows where it has any."""
        parameter = self._parameters[index]
        sparse = gradient.layout is torch.sparse_coo and index in self._marks
        if gradient.dtype != parameter.dtype or not (sparse or gradient.layout is torch.strided):
            raise OptionError(
                f"a gradient of layout {gradient.layout} and type {gradient.dtype}",
                asked="run.step()",
                advice="sparse gradients must come from nn.Embedding(sparse=True), all others be "
                "dense and of the parameter's type",
            )
        if index not in self._marks:
            return gradient.contiguous(), None
        marks = torch.zeros(parameter.shape[0] + 1)
        if not sparse:
            marks[-1] = 1
            return gradient.contiguous(), marks
        whole = gradient.coalesce()
        marks[whole.indices()[0]] = 1
        return whole.to_dense(), marks
