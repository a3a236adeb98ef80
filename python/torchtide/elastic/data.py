"""Which samples a logical worker sees: a pure function of (seed, epoch, N, worker, step)."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import TensorDataset, default_collate

from torchtide.errors import OptionError


class Batch(NamedTuple):
    """A batch of pairs; also unpacks as `x, y = batch`."""

    x: Any
    y: Any


def stream_seed(*parts: object) -> int:
    """A seed of 63 bits that depends on all parts and is the same everywhere."""
    text = ":".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_all(seed: int) -> None:
    """Seeds torch's CPU generator, Python's and, when it is imported, NumPy's."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


@dataclass(frozen=True)
class Share:
    """What one logical worker has to do in one step."""

    ids: Sequence[int]
    step_samples: int  # of all workers together


class Loader:
    """Batches of a map-style dataset; made by `Run.prepare`, iterated by `Run.iterations`."""

    def __init__(
        self,
        dataset: Any,
        workers: int,
        batch_size: int,
        *,
        accumulate: int,
        epochs: int,
        shuffle: bool,
        seed: int,
        collate: Callable[[list[Any]], Any] | None,
    ) -> None:
        """See `Run.prepare`."""
        for name, value in {
            "batch_size": batch_size,
            "accumulate": accumulate,
            "epochs": epochs,
        }.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(
                    "a positive integer is needed", asked=f"prepare({name}={value!r})"
                )
        self.dataset = dataset
        self.sample_count = self._length(dataset)
        if self.sample_count < workers:
            raise OptionError(
                f"{self.sample_count} samples cannot feed {workers} logical workers",
                asked="prepare",
                advice="give the job fewer workers or more data",
            )
        self.workers = workers
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.epochs = epochs
        self.shuffle = shuffle
        self._seed = seed
        self._collate = collate or default_collate
        self._order: tuple[int, list[int]] | None = None

    @staticmethod
    def _length(dataset: Any) -> int:
        try:
            return len(dataset)
        except (TypeError, NotImplementedError):
            raise OptionError(
                f"{type(dataset).__name__} has no length: nobody can say which samples are whose",
                asked="prepare",
                advice="use a map-style dataset with __len__ and __getitem__",
            ) from None

    @property
    def step_size(self) -> int:
        """Samples of a full step."""
        return self.workers * self.batch_size * self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Steps, the shorter last one counted."""
        return -(-self.sample_count // self.step_size)

    def __len__(self) -> int:
        return self.steps_per_epoch * self.epochs

    def order(self, epoch: int) -> list[int]:
        """All sample ids in the order of an epoch."""
        if self._order is None or self._order[0] != epoch:
            ids = list(range(self.sample_count))
            if self.shuffle:
                generator = torch.Generator().manual_seed(stream_seed(self._seed, "epoch", epoch))
                ids = torch.randperm(self.sample_count, generator=generator).tolist()
            self._order = (epoch, ids)
        return self._order[1]

    def share(self, step: int, worker: int) -> Share:
        """The samples of `worker` in `step`; none for some in a tail that is shorter than N.

        A full step gives each the same number. The tail is divided evenly: the first workers have
        one sample more. Every sample of an epoch is given to exactly one worker, once.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        ids = self.order(epoch)[index * self.step_size : (index + 1) * self.step_size]
        each, more = divmod(len(ids), self.workers)
        begin = worker * each + min(worker, more)
        return Share(ids[begin : begin + each + (worker < more)], len(ids))

    def micro_batches(self, share: Share) -> list[Sequence[int]]:
        """The share in pieces of at most `batch_size`."""
        size = self.batch_size
        return [share.ids[at : at + size] for at in range(0, len(share.ids), size)]

    def fetch(self, epoch: int, ids: Sequence[int]) -> Any:
        """The batch of these samples. What a sample draws depends on (seed, epoch, id) only."""
        if type(self.dataset) is TensorDataset and self._collate is default_collate:
            batch: Any = [tensor[list(ids)] for tensor in self.dataset.tensors]
        else:
            samples = []
            for sample in ids:
                seed_all(stream_seed(self._seed, "sample", epoch, sample))
                samples.append(self.dataset[sample])
            batch = self._collate(samples)
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            return Batch(*batch)
        return batch
