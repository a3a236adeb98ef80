"""Batches of a stream (IterableDataset): each logical worker reads its own part."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.utils.data
from torch.utils.data import default_collate

from torchtide.elastic import state as states
from torchtide.elastic.data import LoaderOptions, Place, as_batch, seed_all, stream_seed
from torchtide.elastic.training import cloned
from torchtide.errors import OptionError

#: The module whose global `get_worker_info` returns.
_INFO: Any = torch.utils.data._utils.worker


class _Part:
    """What `get_worker_info` tells a stream: a logical worker takes the place of a data worker."""

    def __init__(self, worker: int, workers: int, seed: int, dataset: Any) -> None:
        self.num_workers, self.seed, self.dataset = workers, seed, dataset
        self._worker = worker
        self.asked = False

    @property
    def id(self) -> int:
        """The part that belongs to the asker."""
        self.asked = True
        return self._worker


@dataclass
class _Live:
    """An open stream and the step whose samples come next."""

    step: int
    epoch: int
    dataset: Any
    samples: Iterator[Any]


class StreamLoader:
    """Batches of an IterableDataset that can say and take its place (`state_dict`).

    The stream shares itself out by `torch.utils.data.get_worker_info()`, as for data workers; its
    id is the logical worker. A part that has ended begins again. Its place is kept in the context
    of the logical worker, so that it moves, and is undone, with it.
    """

    def __init__(self, dataset: Any, options: LoaderOptions, context_bytes: int) -> None:
        """Raises OptionError when the stream cannot be trained elastically."""
        self.dataset, self.options, self.context_bytes = dataset, options, context_bytes
        self.workers, self.batch_size = options.workers, options.batch_size
        kind = type(dataset).__name__
        if options.steps is None:
            raise OptionError(
                f"{kind} has no length: nobody can say which step is the last",
                asked="prepare",
                advice="prepare(..., steps=10000) trains that many steps",
            )
        if options.data_workers:
            raise OptionError(
                "a stream is read in the training process: its place belongs to the step",
                asked=f"prepare(data_workers={options.data_workers})",
                advice="leave data_workers out",
            )
        if not hasattr(dataset, "state_dict") and not hasattr(iter(dataset), "state_dict"):
            raise OptionError(
                f"{kind} cannot say its place, so a step could not be repeated",
                asked="prepare",
                advice="give it state_dict() and load_state_dict(), as torchdata's have",
            )
        self._collate = options.collate or default_collate
        self._live: dict[int, _Live] = {}
        self._shared_out = options.workers == 1

    def __len__(self) -> int:
        return self.options.steps or 0

    def epoch(self, step: int) -> int:
        """Always 0: parts end at different steps."""
        del step
        return 0

    def contract(self) -> dict[str, Any]:
        """What all processes must agree on."""
        return {
            "samples": None,
            "batch_size": self.batch_size,
            "accumulate": self.options.accumulate,
            "steps": self.options.steps,
            "stream": type(self.dataset).__name__,
        }

    def present(self, step: int, worker: int) -> bool:
        """Every worker has a full batch in every step."""
        del step, worker
        return True

    def is_full(self, step: int) -> bool:
        """As `present`."""
        del step
        return True

    def batches(
        self, place: Place, before: memoryview | None, after: memoryview
    ) -> list[tuple[Any, float]]:
        """Batches of a logical worker in a step, each with the weight of its mean loss."""
        live = self._live.get(place.worker)
        if live is None or live.step != place.step:
            live = self._open(place, before)
        seed_all(stream_seed(self.options.seed, "stream", place.worker, place.step))
        found = []
        with self._as_part(place.worker, live.dataset):
            for _ in range(self.options.accumulate):
                samples = [self._sample(place.worker, live) for _ in range(self.batch_size)]
                found.append((as_batch(self._collate(samples)), 1 / self.options.accumulate))
        if not self._shared_out:
            raise OptionError(
                f"{type(self.dataset).__name__} does not ask which part it is to read: all "
                f"{self.workers} logical workers would train the same samples",
                asked="run.iterations(loader)",
                advice="in __iter__, skip what torch.utils.data.get_worker_info() leaves to others",
            )
        live.step = place.step + 1
        self._live[place.worker] = live
        self._keep(live, after)
        return found

    def close(self) -> None:
        """Closes the streams."""
        self._live.clear()

    def _sample(self, worker: int, live: _Live) -> Any:
        for _ in range(2):
            for sample in live.samples:
                return sample
            live.epoch += 1
            live.dataset = self._fresh(live.epoch)
            live.samples = iter(live.dataset)
        raise OptionError(
            f"the part of logical worker {worker} is empty",
            asked="run.iterations(loader)",
            advice=f"a stream must have samples for each of {self.workers} parts",
        )

    def _fresh(self, epoch: int) -> Any:
        dataset = copy.deepcopy(self.dataset)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)
        return dataset

    def _open(self, place: Place, before: memoryview | None) -> _Live:
        """The stream of a worker at its place before the step."""
        state: dict[str, Any] = {"epoch": 0, "stream": None}
        if before is not None:
            state = states.unpack(before)
        dataset = self._fresh(state["epoch"])
        with self._as_part(place.worker, dataset):
            told, kept = state["stream"] is not None, cloned(state["stream"])
            if told and hasattr(dataset, "load_state_dict"):
                dataset.load_state_dict(kept)
            samples: Any = iter(dataset)
            if told and not hasattr(dataset, "load_state_dict"):
                samples.load_state_dict(kept)
        return _Live(place.step, state["epoch"], dataset, samples)

    def _keep(self, live: _Live, after: memoryview) -> None:
        keeper: Any = live.dataset if hasattr(live.dataset, "state_dict") else live.samples
        packed = states.Packed({"epoch": live.epoch, "stream": keeper.state_dict()})
        if packed.size_bytes > len(after):
            raise OptionError(
                f"the place of the stream takes {packed.size_bytes} bytes, there are {len(after)}",
                asked="run.iterations(loader)",
                advice=f"prepare(..., stream_bytes={2 * packed.size_bytes}) makes room",
            )
        packed.write(after[: packed.size_bytes])
        after[packed.size_bytes :] = bytes(len(after) - packed.size_bytes)

    @contextlib.contextmanager
    def _as_part(self, worker: int, dataset: Any) -> Iterator[None]:
        part = _Part(worker, self.workers, self.options.seed, dataset)
        before, _INFO._worker_info = _INFO._worker_info, part
        try:
            yield
        finally:
            _INFO._worker_info = before
        self._shared_out = self._shared_out or part.asked
