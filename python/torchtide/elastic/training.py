"""What a job trains: model, optimizer, scheduler; their state, and applying a mean gradient."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from torchtide.elastic import state as states
from torchtide.elastic.adapt import NoiseScale, squared_norm
from torchtide.elastic.contexts import Contexts, Slot
from torchtide.elastic.gradients import ELEMENT_TYPES, Gradients
from torchtide.errors import OptionError


class Training:
    """One replica. Everything in it is equal in all processes after each step."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        scaler: Any,
        max_norm: float | None,
        noise: NoiseScale | None = None,
    ) -> None:
        """See `Run.prepare`. Raises OptionError for what cannot be trained elastically."""
        self.model, self.optimizer = model, optimizer
        self.scheduler, self.scaler, self.max_norm = scheduler, scaler, max_norm
        self.noise = noise
        self.parameters: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._check_tensors()
        self.buffers = [b for b in model.buffers() if b.numel()]
        self.gradients = Gradients(model, self.parameters)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of the loss, scaled where there is a scaler."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()

    def apply(self, norms: Sequence[float] | None = None) -> None:
        """One step of the optimizer with the mean gradient, and of the scheduler.

        `norms` are the squared norms of the workers' gradients, in a step in which all had the
        same number of samples and somebody wants to know the noise scale.
        """
        self.gradients.install()
        if norms is not None and self.noise is not None:
            mean = squared_norm([parameter.grad for parameter in self.parameters])
            scale = 1.0 if self.scaler is None else float(self.scaler.get_scale()) ** 2
            self.noise.add([norm / scale for norm in norms], mean / scale)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.gradients.sparsify()
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()
        self.gradients.clear()

    def contract(self) -> dict[str, Any]:
        """What must be equal in all processes, and in a run that goes on from a checkpoint."""
        shapes = repr([(tuple(t.shape), str(t.dtype)) for t in self.parameters + self.buffers])
        return {
            "optimizer": type(self.optimizer).__name__,
            "scheduler": type(self.scheduler).__name__,
            "scaler": self.scaler is not None,
            "max_norm": self.max_norm,
            "model": hashlib.sha256(shapes.encode()).hexdigest()[:16],
        }

    def tree(self, contexts: Contexts) -> dict[str, Any]:
        """All of it as plain values and tensors that are not copied."""
        return {
            "parameters": [p.detach() for p in self.model.parameters()],
            "buffers": contexts.initial(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "noise": None if self.noise is None else self.noise.state(),
        }

    def adopt(self, tree: dict[str, Any], contexts: Contexts) -> None:
        """Takes over what `tree` returned elsewhere; copies every tensor."""
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), tree["parameters"], strict=True):
                parameter.copy_(value)
            for buffer, value in zip(self.buffers, tree["buffers"], strict=True):
                buffer.copy_(value)
        contexts.initial_changed()
        self.optimizer.load_state_dict(cloned(tree["optimizer"]))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(cloned(tree["scheduler"]))
        if self.scaler is not None:
            self.scaler.load_state_dict(cloned(tree["scaler"]))
        if self.noise is not None and tree.get("noise") is not None:
            self.noise.adopt(tree["noise"])

    def model_state(self, contexts: Contexts, slot: Slot | None) -> dict[str, torch.Tensor]:
        """The model's state_dict with the buffers of one context (None: of the beginning)."""
        places = {buffer.data_ptr(): i for i, buffer in enumerate(self.buffers)}
        found = {}
        for name, tensor in self.model.state_dict().items():
            index = places.get(tensor.data_ptr()) if tensor.numel() else None
            if index is not None and slot is not None and slot.changed[index]:
                tensor = slot.buffers[index].clone()  # torch.save wants one type a storage
            elif index is not None:
                tensor = contexts.initial()[index]
            found[name] = tensor.detach()
        return found

    def digest(self, into: Any) -> None:
        """Adds everything to a hash."""
        for name, parameter in self.model.named_parameters():
            into.update(name.encode() + states.tensor_bytes(parameter))
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        scaler = [] if self.scaler is None else [self.scaler.state_dict()]
        packed = states.Packed([self.optimizer.state_dict(), scheduler, *scaler])
        into.update(packed.digest().encode())

    def _check_tensors(self) -> None:
        if not self.parameters:
            raise OptionError("the model has no parameter that is trained", asked="prepare")
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            if tensor.device.type != "cpu":
                raise OptionError(
                    f"{name} is on {tensor.device}; elastic jobs run on the CPU", asked="prepare"
                )
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter.dtype not in ELEMENT_TYPES:
                raise OptionError(
                    f"{name} has the type {parameter.dtype}",
                    asked="prepare",
                    advice="gradients of float32, bfloat16 and float64 can be summed",
                )
        ours = {id(p) for p in self.parameters}
        theirs = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not theirs & ours or theirs - {id(p) for p in self.model.parameters()}:
            raise OptionError(
                "the optimizer steps other parameters than the model's",
                asked="prepare",
                advice="make the optimizer from model.parameters()",
            )


def cloned(value: Any) -> Any:
    """A copy that outlives the memory whose tensors it was made of."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: cloned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(cloned(item) for item in value)
    return value
