"""`Run`: what the training function holds; the loop of logical workers in one process."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final

import torch

from torchtide import _core
from torchtide.elastic import state as states
from torchtide.elastic.contexts import Contexts, Slot, tensor_bytes, tensors_digest
from torchtide.elastic.data import Loader, Share, seed_all, stream_seed
from torchtide.errors import OptionError, ResizeAborted

#: Set by the launcher for its workers: the descriptor of the job's memory file.
DESCRIPTOR: Final = "TIDE_ELASTIC_FD"
_ELEMENT_TYPES: Final = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}


class Released(SystemExit):
    """Ends a process that the job no longer needs: it became smaller, or ended meanwhile."""


class Run:
    """One process of an elastic job. Use it on one thread.

    Attributes:
        workers: N.
        worker_id: The logical worker whose batch is being trained; -1 between batches.
        step_index: Steps that have been applied.
    """

    def __init__(
        self, workers: int, bounds: tuple[int, int], *, seed: int = 0, threads: int = 1
    ) -> None:
        """See `torchtide.elastic`."""
        self.workers = workers
        self.worker_id = -1
        self.step_index = 0
        self.model: torch.nn.Module
        self.optimizer: torch.optim.Optimizer
        self._bounds = bounds
        self._seed = seed
        self._threads = threads
        self._exchange: Any = None
        self._backed = self._stepped = False
        self._group = DESCRIPTOR in os.environ
        if not self._group and bounds[0] > 1:
            raise OptionError(
                "one process was started by itself",
                asked=f"processes={bounds}",
                advice=f"tide run --processes {bounds[0]}:{bounds[1]} -- python train.py",
            )
        torch.set_num_threads(threads)
        seed_all(stream_seed(seed, "start"))

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Without this the others would wait until this process has ended.
        if self._exchange is not None:
            self._exchange.leave(False)

    # --------------------------------------------------------------------------------------------
    # What the training function calls

    def prepare(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        dataset: Any,
        *,
        batch_size: int,
        epochs: int = 1,
        shuffle: bool = True,
        accumulate: int = 1,
        max_norm: float | None = None,
        scheduler: Any = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer, Loader]:
        """Takes over model, optimizer and data; joins the job's other processes.

        Args:
            model: on the CPU, already initialised; the first process's parameters count.
            optimizer: over the model's parameters.
            dataset: map-style, of at least N samples.
            batch_size: samples of one logical worker in one micro-batch.
            epochs: times that the data are seen.
            shuffle: a new order for each epoch.
            accumulate: micro-batches of each logical worker in one step.
            max_norm: clips the norm of the mean gradient of each step.
            scheduler: of the learning rate, stepped after each step.
            collate: makes a batch of a list of samples.

        Returns:
            The model and the optimizer themselves, and the loader for `iterations`.

        Raises:
            OptionError: something cannot be trained elastically, or this process differs from the
                others of the job; the sentence says what.
        """
        loader = Loader(
            dataset,
            self.workers,
            batch_size,
            accumulate=accumulate,
            epochs=epochs,
            shuffle=shuffle,
            seed=self._seed,
            collate=collate,
        )
        self.model, self.optimizer = model, optimizer
        self._scheduler, self._max_norm, self._loader = scheduler, max_norm, loader
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._check_tensors()
        self._contexts = Contexts([b for b in model.buffers() if b.numel()], self._seed)
        self._slots: dict[tuple[int, int], Slot] = {}
        sizes = [(_ELEMENT_TYPES[p.dtype], p.numel()) for p in self._parameters]
        self._exchange = _core.ElasticExchange(self.workers, sizes, self._contexts.size_bytes)
        if self._group:
            self._join_group()
        flat = torch.frombuffer(self._exchange.gradients(), dtype=torch.uint8)
        self._gradients = [
            flat[at : at + p.nbytes].view(p.dtype).view(p.shape)
            for at, p in zip(self._exchange.offsets(), self._parameters, strict=True)
        ]
        return model, optimizer, loader

    def iterations(self, loader: Loader) -> Iterator[Any]:
        """Yields the batches of the logical workers that this process carries, step after step.

        A step that another process's death interrupted is yielded again, with the workers that are
        carried then. The body must call `backward` and `step` once for each batch.

        Raises:
            Released: the job has become smaller and this process is to end.
            OptionError: the body broke a rule.
        """
        if loader is not getattr(self, "_loader", None):
            raise OptionError(
                "only the loader that `prepare` returned can be divided among workers",
                asked="run.iterations(loader)",
                advice="model, optimizer, loader = run.prepare(model, optimizer, dataset, ...)",
            )
        if not self._exchange.stand():
            raise Released(0)
        self._receive_or_send()
        while self.step_index < len(loader):
            yield from self._one_step(loader)
            if not self._exchange.advance(self.step_index):
                raise Released(0)
            self._receive_or_send()
        self._exchange.leave(True)
        self._load(0)  # evaluation sees what logical worker 0 has

    def backward(self, loss: torch.Tensor) -> None:
        """Backward of the mean loss of the batch, weighted by its share of the step's samples."""
        if self.worker_id < 0:
            raise OptionError("it belongs into the body of the loop", asked="run.backward(loss)")
        (loss if self._weight == 1.0 else loss * self._weight).backward()  # type: ignore[no-untyped-call]
        self._backed = True

    def step(self) -> bool:
        """Ends the body of the loop for one batch.

        With the last batch of the last logical worker of this process the processes add up their
        gradients; when all have voted, each clips, steps optimizer and scheduler.

        Returns:
            True when the optimizer has stepped.
        """
        if self.worker_id < 0 or not self._backed:
            raise OptionError(
                "call run.backward(loss), then run.step(), once for each batch", asked="run.step()"
            )
        self._backed, self._stepped = False, True
        self._micro_left -= 1
        if self._micro_left:
            return False
        self._fold(self.worker_id, [p.grad for p in self._parameters])
        self._contexts.save(self._slot(self.step_index + 1, self.worker_id), self._before)
        for parameter in self._parameters:
            parameter.grad = None
        worker, self.worker_id = self.worker_id, -1
        for absent in range(worker + 1, self._end):
            if self._share(absent).ids:
                return False
            self._fold_absent(absent)
        return self._finish()

    @property
    def generation(self) -> int:
        """How often the set of processes has changed."""
        return int(self._place()["generation"])

    @property
    def processes(self) -> int:
        """Processes that carry the job now."""
        return int(self._place()["processes"])

    @property
    def carried(self) -> range:
        """Logical workers of this process."""
        place = self._place()
        return range(place["begin"], place["end"])

    @property
    def is_main(self) -> bool:
        """True in one of the processes: the one that prints and saves."""
        return int(self._place()["rank"]) == 0

    @property
    def epoch(self) -> int:
        """Passes over the data that are complete."""
        return self.step_index // self._loader.steps_per_epoch

    def digest(self) -> str:
        """SHA-256 of parameters, optimizer, scheduler and every logical worker's context.

        Right after a `step` that returned True; equal for every history of sizes.
        """
        found = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            found.update(name.encode() + tensor_bytes(parameter))
        packed = states.Packed([self.optimizer.state_dict(), self._scheduler_state()])
        view = memoryview(bytearray(packed.size_bytes))
        packed.write(view)
        found.update(view)
        for worker in range(self.workers):
            Contexts.digest(self._slot(self.step_index, worker), found)
        return found.hexdigest()

    def times(self) -> tuple[float, float]:
        """Seconds of the last step: waited for the others' votes, summed."""
        waited, summed = self._exchange.times()
        return float(waited), float(summed)

    # --------------------------------------------------------------------------------------------
    # A step

    def _one_step(self, loader: Loader) -> Iterator[Any]:
        step = self.step_index
        epoch = step // loader.steps_per_epoch
        if torch.get_num_threads() != self._threads:
            raise OptionError(
                f"the job computes with {self._threads} threads, other numbers change bits",
                asked=f"torch.set_num_threads({torch.get_num_threads()})",
                advice=f"tide.elastic(workers={self.workers}, threads=...) sets it for the job",
            )
        place = self._place()
        self._begin, self._end = place["begin"], place["end"]
        self._exchange.begin(step)
        present = [w for w in range(self._begin, self._end) if self._share(w).ids]
        if not present:
            for worker in range(self._begin, self._end):
                self._fold_absent(worker)
            self._finish()
            return
        for worker in present:
            share = self._share(worker)
            pieces = loader.micro_batches(share)
            self._micro_left = len(pieces)
            batches = [loader.fetch(epoch, ids) for ids in pieces]
            self._load(worker)
            for ids, batch in zip(pieces, batches, strict=True):
                self.worker_id = worker
                self._weight = len(ids) * self.workers / share.step_samples
                self._stepped = False
                yield batch
                if not self._stepped:
                    raise OptionError(
                        "the body of the loop did not call run.step()",
                        asked="run.iterations(loader)",
                        advice="call run.backward(loss), then run.step(), once for each batch",
                    )

    def _finish(self) -> bool:
        last = self.step_index + 1 == len(self._loader)
        if not self._exchange.finish(self.step_index, last):
            return False  # to be repeated with other workers
        for parameter, gradient, used in zip(
            self._parameters, self._gradients, self._exchange.used(), strict=True
        ):
            parameter.grad = gradient if used else None
        if self._max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        self.optimizer.step()
        if self._scheduler is not None:
            self._scheduler.step()
        for parameter in self._parameters:
            parameter.grad = None
        self.step_index += 1
        return True

    def _share(self, worker: int) -> Share:
        return self._loader.share(self.step_index, worker)

    def _fold(self, worker: int, gradients: Sequence[torch.Tensor | None]) -> None:
        kept, addresses = [], []
        for gradient, parameter in zip(gradients, self._parameters, strict=True):
            if gradient is None:
                addresses.append(0)
                continue
            if gradient.layout is not torch.strided or gradient.dtype != parameter.dtype:
                raise OptionError(
                    f"a gradient of layout {gradient.layout} and type {gradient.dtype}",
                    asked="run.step()",
                    advice="use dense gradients of the parameter's type (Embedding(sparse=False))",
                )
            kept.append(gradient.contiguous())  # alive until they have been added
            addresses.append(kept[-1].data_ptr())
        self._exchange.fold(worker, addresses)

    def _fold_absent(self, worker: int) -> None:
        """A worker without samples: zeros, and a context that only moves on."""
        self._exchange.fold(worker, [0] * len(self._parameters))
        self._load(worker)
        self._contexts.save(self._slot(self.step_index + 1, worker), self._before)

    def _load(self, worker: int) -> None:
        self._before = None if self.step_index == 0 else self._slot(self.step_index, worker)
        if self._before is None:
            self._contexts.load_first(worker)
        else:
            self._contexts.load(self._before)

    def _slot(self, step: int, worker: int) -> Slot:
        key = step % 2, worker
        if key not in self._slots:
            view = self._exchange.context(step, worker)
            self._slots[key] = Slot(view, self._contexts.buffers)
        return self._slots[key]

    def _place(self) -> dict[str, Any]:
        place: dict[str, Any] = self._exchange.place()
        return place

    # --------------------------------------------------------------------------------------------
    # The other processes

    def _join_group(self) -> None:
        contract = self._contract()
        found = json.loads(self._exchange.attach(int(os.environ[DESCRIPTOR]), json.dumps(contract)))
        for key, value in contract.items():
            if found.get(key) != value:
                raise OptionError(
                    f"this process has {key} {value!r}, the job has {found.get(key)!r}",
                    asked="join the elastic job",
                    advice="all processes of a job need the same script, machine and packages",
                )
        self._exchange.bound(*self._bounds)

    def _contract(self) -> dict[str, Any]:
        """All that must be equal for equal bits."""
        shapes = repr([(tuple(p.shape), str(p.dtype)) for p in self._parameters])
        loader = self._loader
        return {
            "torch": torch.__version__,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": self._threads,
            "workers": self.workers,
            "seed": self._seed,
            "samples": loader.sample_count,
            "batch_size": loader.batch_size,
            "accumulate": loader.accumulate,
            "epochs": loader.epochs,
            "shuffle": loader.shuffle,
            "optimizer": type(self.optimizer).__name__,
            "max_norm": self._max_norm,
            "model": hashlib.sha256(shapes.encode()).hexdigest()[:16],
        }

    def _receive_or_send(self) -> None:
        """Takes the state from a peer, or hands it to joiners, when a generation has just begun."""
        place = self._place()
        while place["needs_state"]:
            first = place["first_step"]
            if self._exchange.await_state(first):
                self._unpack(states.unpack(self._exchange.state()))
                self._exchange.state_done()
                self.step_index = first
            elif not self._exchange.advance(first):
                raise ResizeAborted("this process was left out while it joined")
            place = self._place()
        if place["owes_state"]:
            packed = states.Packed(self._tree())
            packed.write(self._exchange.state(packed.size_bytes))
            self._exchange.state_done(packed.size_bytes)

    def _scheduler_state(self) -> Any:
        return None if self._scheduler is None else self._scheduler.state_dict()

    def _tree(self) -> dict[str, Any]:
        return {
            "parameters": [p.detach() for p in self.model.parameters()],
            "buffers": self._contexts.initial(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self._scheduler_state(),
        }

    def _unpack(self, tree: dict[str, Any]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), tree["parameters"], strict=True):
                parameter.copy_(value)
            for buffer, value in zip(self._contexts.buffers, tree["buffers"], strict=True):
                buffer.copy_(value)
        self._contexts.initial_changed()
        self.optimizer.load_state_dict(_cloned(tree["optimizer"]))
        if self._scheduler is not None:
            self._scheduler.load_state_dict(_cloned(tree["scheduler"]))

    def _check_tensors(self) -> None:
        if not self._parameters:
            raise OptionError("the model has no parameter that is trained", asked="prepare")
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            if tensor.device.type != "cpu":
                raise OptionError(
                    f"{name} is on {tensor.device}; elastic jobs run on the CPU", asked="prepare"
                )
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter.dtype not in _ELEMENT_TYPES:
                raise OptionError(
                    f"{name} has the type {parameter.dtype}",
                    asked="prepare",
                    advice="gradients of float32, bfloat16 and float64 can be summed",
                )
        ours = {id(p) for p in self._parameters}
        theirs = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not theirs & ours or theirs - {id(p) for p in self.model.parameters()}:
            raise OptionError(
                "the optimizer steps other parameters than the model's",
                asked="prepare",
                advice="make the optimizer from model.parameters()",
            )


def _cloned(value: Any) -> Any:
    """Tensors out of the shared memory that will be unmapped."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_cloned(item) for item in value)
    return value


__all__ = ["Released", "Run", "tensors_digest"]
