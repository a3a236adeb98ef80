"""`Run`: what the training function holds; the loop of logical workers in one process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final

import torch

from torchtide import _core
from torchtide.elastic import hosts
from torchtide.elastic import state as states
from torchtide.elastic.adapt import Observer, Policy, Report, squared_norm
from torchtide.elastic.checkpoint import Resumable
from torchtide.elastic.contexts import Contexts, Slot, tensors_digest
from torchtide.elastic.data import Place, seed_all, stream_seed
from torchtide.elastic.gang import GangOfRun
from torchtide.elastic.loading import AnyLoader, make_loader
from torchtide.elastic.orders import Orders
from torchtide.elastic.training import Training
from torchtide.errors import OptionError, ResizeAborted

#: Set by the launcher for its workers: the descriptor of the job's memory file.
DESCRIPTOR: Final = "TIDE_ELASTIC_FD"


class Released(SystemExit):
    """Ends a process that the job no longer needs: it became smaller, or ended meanwhile."""


class Run(Resumable):
    """One process of an elastic job. Use it on one thread.

    Attributes:
        workers: N.
        worker_id: The logical worker whose batch is being trained; -1 between batches.
        step_index: Steps that have been applied.
    """

    def __init__(
        self,
        workers: int,
        bounds: tuple[int, int],
        *,
        seed: int = 0,
        threads: int = 1,
        adapt: Policy | None = None,
    ) -> None:
        """See `torchtide.elastic`."""
        self.workers = workers
        self.worker_id = -1
        self.step_index = 0
        self.model: torch.nn.Module
        self.optimizer: torch.optim.Optimizer
        self._bounds, self._adapt = bounds, adapt
        self._seed = seed
        self._threads = threads
        self._exchange: Any = None
        self._orders: Orders | None = None  # of a job that others can order about
        self._base = 0  # steps that were done before this job began: a checkpoint's
        self._restored: list[torch.Tensor] | None = None  # contexts out of a checkpoint
        self._backed = self._stepped = self._standing = self._stopped = False
        self._on_step: Callable[[], None] | None = None
        self._settled = True  # no step is half done
        self._state_read, self._expected = -1, False
        self._gang: GangOfRun | None = None
        self._group = DESCRIPTOR in os.environ
        self._hosts = not self._group and hosts.launched()
        if not self._group and not self._hosts and bounds[0] > 1:
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
            self._loader.close()
            self._exchange.leave(False)

    # --------------------------------------------------------------------------------------------
    # What the training function calls

    def prepare(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        dataset: Any,
        *,
        batch_size: int | None = None,
        epochs: int = 1,
        steps: int | None = None,
        shuffle: bool = True,
        accumulate: int = 1,
        max_norm: float | None = None,
        scheduler: Any = None,
        scaler: Any = None,
        collate: Callable[[list[Any]], Any] | None = None,
        data_workers: int = 0,
        stream_bytes: int = 4096,
        noise_scale: bool = False,
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer, AnyLoader]:
        """Takes over model, optimizer and data; joins the job's other processes.

        Args:
            model: on the CPU, already initialised; the first process's parameters count.
            optimizer: over the model's parameters.
            dataset: map-style, of at least N samples; an `IterableDataset` that can say its place;
                or a `DataLoader` of one of them.
            batch_size: samples of one logical worker in one micro-batch; default: the DataLoader's.
            epochs: times that the data are seen.
            steps: ends after so many steps, whatever `epochs` says; a stream needs it.
            shuffle: a new order for each epoch.
            accumulate: micro-batches of each logical worker in one step.
            max_norm: clips the norm of the mean gradient of each step.
            scheduler: of the learning rate, stepped after each step.
            scaler: a `torch.amp.GradScaler`; it sees the mean gradient.
            collate: makes a batch of a list of samples.
            data_workers: processes that read ahead for this one; 0: it reads itself.
            stream_bytes: room for the place of a stream in each logical worker's context.
            noise_scale: measures it for `report`; one more pass over each worker's gradients.

        Returns:
            The model and the optimizer themselves, and the loader for `iterations`.

        Raises:
            OptionError: something cannot be trained elastically, or this process differs from the
                others of the job; the sentence says what.
        """
        options = {
            "workers": self.workers,
            "seed": self._seed,
            "accumulate": accumulate,
            "epochs": epochs,
            "steps": steps,
            "shuffle": shuffle,
            "collate": collate,
            "data_workers": data_workers,
        }
        loader = make_loader(dataset, batch_size, options, stream_bytes)
        self._observer = Observer(self.workers, loader.options.step_samples, noise_scale)
        noise = self._observer.noise
        self._take_over(Training(model, optimizer, scheduler, scaler, max_norm, noise), loader)
        return model, optimizer, loader

    def iterations(self, loader: AnyLoader) -> Iterator[Any]:
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
        self._standing = True
        if not self._exchange.stand():
            raise Released(0)
        self._receive_or_send()
        self._obey()
        while self.step_index < len(loader):
            yield from self._one_step(loader)
            if self._stopped and self._settled:
                break
            if not self._exchange.advance(self._at()):
                raise Released(0)
            self._receive_or_send()
            self._obey()
        self._exchange.leave(True)
        self._load(0)  # evaluation sees what logical worker 0 has

    def backward(self, loss: torch.Tensor) -> None:
        """Backward of the mean loss of the batch, weighted by its share of the step's samples."""
        if self.worker_id < 0:
            raise OptionError("it belongs into the body of the loop", asked="run.backward(loss)")
        gradients = self._training.gradients
        if self._micro_left == 1 and self.worker_id + 1 == self._end and not self._backed:
            gradients.fold_during_backward(self.worker_id)
        try:
            self._training.backward(loss if self._weight == 1.0 else loss * self._weight)
        finally:
            gradients.backward_is_over()
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
        after = self._slot(self._at() + 1, self.worker_id)
        if self._observer.noise is not None:
            after.norm[0] = squared_norm([p.grad for p in self._training.parameters])
        self._training.gradients.fold(self.worker_id)
        self._contexts.save(after, self._before)
        worker, self.worker_id = self.worker_id, -1
        for absent in range(worker + 1, self._end):
            if self._loader.present(self.step_index, absent):
                return False
            self._fold_absent(absent)
        return self._finish()

    def report(self) -> Report:
        """Times by size, throughput, noise scale and goodput, as known here; between two steps."""
        if self._exchange is None or self.worker_id >= 0:
            raise OptionError("it belongs between two steps", asked="run.report()")
        return self._observer.report(self.step_index, self.processes, self._bounds)

    def on_step(self, function: Callable[[], None] | None) -> None:
        """Has `function` called after each step, in every process, before the next one begins.

        Also where a process had no samples in the step, so that the body of the loop did not run
        there. What it decides must not depend on the process.
        """
        self._on_step = function

    def take_up(self, worker: int = 0) -> None:
        """Puts a logical worker's buffers and random states in place, as they are after the step.

        For an evaluation inside of `on_step`; it changes nothing in the training.
        """
        if self.worker_id >= 0 or not self._settled:
            raise OptionError("it belongs between two steps", asked=f"run.take_up({worker})")
        self._load(worker)

    def stop(self) -> None:
        """Ends the loop after the present step. All processes must call it in the same step."""
        self._stopped = True

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
        """Passes over the data that are complete; 0 for a stream, whose parts have their own."""
        return self._loader.epoch(self.step_index)

    def digest(self) -> str:
        """SHA-256 of parameters, optimizer, scheduler and every logical worker's context.

        Right after a `step` that returned True; equal for every history of sizes.
        """
        found = hashlib.sha256()
        self._training.digest(found)
        for worker in range(self.workers):
            Contexts.digest(self._slot(self._at(), worker), found)
        return found.hexdigest()

    def times(self) -> tuple[float, float]:
        """Seconds of the last step: waited for the others' votes, summed."""
        waited, summed = self._exchange.times()
        return float(waited), float(summed)

    # --------------------------------------------------------------------------------------------
    # A step

    def _one_step(self, loader: AnyLoader) -> Iterator[Any]:
        step = self.step_index
        if torch.get_num_threads() != self._threads:
            raise OptionError(
                f"the job computes with {self._threads} threads, other numbers change bits",
                asked=f"torch.set_num_threads({torch.get_num_threads()})",
                advice=f"tide.elastic(workers={self.workers}, threads=...) sets it for the job",
            )
        place = self._place()
        self._observer.begin(int(place["generation"]))
        self._tidy_state()
        if self._gang is not None:
            self._gang.join(place, lambda: self.step_index)
        self._begin, self._end = place["begin"], place["end"]
        self._exchange.begin(self._at())
        self._settled = False
        carried = range(self._begin, self._end)
        present = [worker for worker in carried if loader.present(step, worker)]
        if not present:
            for worker in carried:
                self._fold_absent(worker)
            self._finish()
            return
        for worker in present:
            before = None if step == 0 else self._slot(self._at(), worker).extra
            after = self._slot(self._at() + 1, worker).extra
            batches = loader.batches(Place(step, worker, carried), before, after)
            self._micro_left = len(batches)
            self._load(worker)
            for batch, weight in batches:
                self.worker_id, self._weight = worker, weight
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
        if not self._exchange.finish(self._at(), last):
            return False  # to be repeated with other workers
        norms = None
        if self._observer.noise is not None and self._loader.is_full(self.step_index):
            slots = (self._slot(self._at() + 1, worker) for worker in range(self.workers))
            norms = [float(slot.norm[0]) for slot in slots]
        self._training.apply(norms)
        self.step_index += 1
        self._settled = True
        self._observer.end(self.processes)
        if self._adapt is not None and self.is_main:
            self._observer.propose(self._adapt, self.report())
        if self._on_step is not None:
            self._on_step()
        return True

    def _tidy_state(self) -> None:
        """Gives back what joiners have read, and says once how much the next one will receive.

        They have read it when the first step with them is done. Nobody writes the next state before
        this process has published this step.
        """
        if not self._group or self._at() == 0:
            return
        if self._at() == self._state_read:
            self._exchange.drop_state()
        if not self._expected:
            self._expected = True
            with contextlib.suppress(OptionError):  # no joiner yet who could not receive it
                packed = states.Packed(self._state_tree())
                self._exchange.expect_state(packed.size_bytes + states.ROOM_FOR_NUMBERS)

    def _state_tree(self) -> dict[str, Any]:
        return self._training.tree(self._contexts) | {"base": self._base}

    def _obey(self) -> None:
        """Orders to the whole job take effect here."""
        while self._orders is not None and not self._orders.obey(self._at(), self.processes):
            if not self._exchange.advance(self._at()):
                raise Released(0)
            self._receive_or_send()

    def _at(self) -> int:
        """Steps since this job began; the exchange counts so."""
        return self.step_index - self._base

    def _fold_absent(self, worker: int) -> None:
        """A worker without samples: zeros, and a context that only moves on."""
        self._training.gradients.fold_absent(worker)
        self._load(worker)
        self._contexts.save(self._slot(self._at() + 1, worker), self._before)

    def _load(self, worker: int) -> None:
        self._before = None if self.step_index == 0 else self._slot(self._at(), worker)
        if self._before is None:
            self._contexts.load_first(worker)
        else:
            self._contexts.load(self._before)

    def _slot(self, step: int, worker: int) -> Slot:
        key = step % 2, worker
        if key not in self._slots:
            view = self._exchange.context(step, worker)
            self._slots[key] = Slot(view, self._contexts.buffers, self._contexts.norms)
        return self._slots[key]

    def _place(self) -> dict[str, Any]:
        place: dict[str, Any] = self._exchange.place()
        return place

    # --------------------------------------------------------------------------------------------
    # The other processes

    def _take_over(self, training: Training, loader: AnyLoader) -> None:
        """Lays out what the processes exchange, and joins the others."""
        self.model, self.optimizer = training.model, training.optimizer
        self._training, self._loader = training, loader
        self._contexts = Contexts(
            training.buffers, self._seed, loader.context_bytes, norms=training.noise is not None
        )
        self._slots: dict[tuple[int, int], Slot] = {}
        kind = hosts.HostsExchange if self._hosts else _core.ElasticExchange
        sizes = training.gradients.sizes()
        self._exchange = kind(self.workers, sizes, self._contexts.size_bytes)
        if self._group or self._hosts:
            self._join_group()
        training.gradients.attach(self._exchange)

    def _join_group(self) -> None:
        contract = self._contract()
        descriptor = int(os.environ.get(DESCRIPTOR, "-1"))
        found = json.loads(self._exchange.attach(descriptor, json.dumps(contract)))
        for key, value in contract.items():
            if found.get(key) != value:
                raise OptionError(
                    f"this process has {key} {value!r}, the job has {found.get(key)!r}",
                    asked="join the elastic job",
                    advice="all processes of a job need the same script, machine and packages",
                )
        self._exchange.bound(*self._bounds)
        if self._group:
            self._orders = Orders(self._exchange, descriptor)
            self._observer.group = _core.ElasticGroup(descriptor)
            self._gang = GangOfRun(descriptor)

    def _contract(self) -> dict[str, Any]:
        """All that must be equal for equal bits."""
        return {
            "torch": str(torch.__version__),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": self._threads,
            "workers": self.workers,
            "seed": self._seed,
            **self._loader.contract(),
            **self._training.contract(),
        }

    def _restore(self) -> None:
        """The contexts of a checkpoint become those of the first step; by who received no state."""
        if self._restored:
            self._exchange.started_at(self._base)
            for worker, context in enumerate(self._restored):
                whole = self._slot(0, worker).whole
                known = min(len(whole), len(context))  # the norm at its end may be new, or gone
                whole[:known].copy_(context[:known])
        self._restored = None

    def _receive_or_send(self) -> None:
        """Takes the state from a peer, or hands it to joiners, when a generation has just begun."""
        place = self._place()
        while place["needs_state"]:
            first = place["first_step"]
            if self._exchange.await_state(first):
                tree = states.unpack(self._exchange.state())
                self._training.adopt(tree, self._contexts)
                self._base = tree["base"]
                self._exchange.state_done()
                self._restored = None
                self.step_index = self._base + first
            elif not self._exchange.advance(first):
                raise ResizeAborted("this process was left out while it joined")
            place = self._place()
        self._restore()
        if place["owes_state"]:
            packed = states.Packed(self._state_tree())
            packed.write(self._exchange.state(packed.size_bytes))
            self._exchange.state_done(packed.size_bytes)
            self._state_read = self._at() + 1


__all__ = ["Released", "Run", "tensors_digest"]
