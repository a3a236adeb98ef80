"""Which samples a logical worker sees: a pure function of (seed, epoch, N, worker, step)."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

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


def as_batch(batch: Any) -> Any:
    """A pair becomes a `Batch`; anything else stays what it is."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return Batch(*batch)
    return batch


@dataclass(frozen=True)
class Place:
    """A logical worker's turn in a step, and the workers of its process."""

    step: int
    worker: int
    carried: range


@dataclass(frozen=True)
class Share:
    """What one logical worker has to do in one step."""

    ids: Sequence[int]
    step_samples: int  # of all workers together


@dataclass
class LoaderOptions:
    """How data are divided; see `Run.prepare`."""

    workers: int
    batch_size: int
    seed: int
    accumulate: int = 1
    epochs: int = 1
    steps: int | None = None
    shuffle: bool = True
    drop_last: bool = False
    collate: Callable[[list[Any]], Any] | None = None
    data_workers: int = 0

    def __post_init__(self) -> None:
        """Raises OptionError for a number that makes no sense."""
        least = {"batch_size": 1, "accumulate": 1, "epochs": 1, "steps": 1, "data_workers": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if name == "steps" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                wanted = "a positive integer" if low else "an integer, 0 or more,"
                raise OptionError(f"{wanted} is needed", asked=f"prepare({name}={value!r})")

    @property
    def step_samples(self) -> int:
        """Samples of a full step."""
        return self.workers * self.batch_size * self.accumulate


class Loader:
    """Batches of a map-style dataset; made by `Run.prepare`, iterated by `Run.iterations`."""

    #: Bytes of a logical worker's context that the data need.
    context_bytes = 0

    def __init__(self, dataset: Any, options: LoaderOptions) -> None:
        """Raises OptionError when there are fewer samples than logical workers."""
        self.dataset, self.options = dataset, options
        self.workers, self.batch_size = options.workers, options.batch_size
        self.sample_count = len(dataset)
        if self.sample_count < self.workers:
            raise OptionError(
                f"{self.sample_count} samples cannot feed {self.workers} logical workers",
                asked="prepare",
                advice="give the job fewer workers or more data",
            )
        if self.steps_per_epoch == 0:
            raise OptionError(
                f"{self.sample_count} samples are no full step of {self.step_size}",
                asked="prepare(drop_last=True)",
                advice="let the tail be trained, or use smaller batches",
            )
        self._collate = options.collate or default_collate
        self._order: tuple[int, list[int]] | None = None
        self._prefetch: Prefetch | None = None

    @property
    def step_size(self) -> int:
        """Samples of a full step."""
        return self.options.step_samples

    def is_full(self, step: int) -> bool:
        """Whether every worker has the same number of samples in that step."""
        return self.share(step, 0).step_samples == self.step_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps, the shorter last one counted unless it is dropped."""
        if self.options.drop_last:
            return self.sample_count // self.step_size
        return -(-self.sample_count // self.step_size)

    def __len__(self) -> int:
        return self.options.steps or self.steps_per_epoch * self.options.epochs

    def epoch(self, step: int) -> int:
        """Passes over the data that are complete before `step`."""
        return step // self.steps_per_epoch

    def contract(self) -> dict[str, Any]:
        """What all processes must agree on."""
        options = self.options
        return {
            "samples": self.sample_count,
            "batch_size": self.batch_size,
            "accumulate": options.accumulate,
            "epochs": options.epochs,
            "steps": options.steps,
            "shuffle": options.shuffle,
            "drop_last": options.drop_last,
        }

    def order(self, epoch: int) -> list[int]:
        """All sample ids in the order of an epoch."""
        if self._order is None or self._order[0] != epoch:
            ids = list(range(self.sample_count))
            if self.options.shuffle:
                seed = stream_seed(self.options.seed, "epoch", epoch)
                generator = torch.Generator().manual_seed(seed)
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

    def present(self, step: int, worker: int) -> bool:
        """Whether the worker has samples in that step."""
        return bool(self.share(step, worker).ids)

    def micro_batches(self, share: Share) -> list[Sequence[int]]:
        """The share in pieces of at most `batch_size`."""
        size = self.batch_size
        return [share.ids[at : at + size] for at in range(0, len(share.ids), size)]

    def batches(
        self, place: Place, before: memoryview | None, after: memoryview
    ) -> list[tuple[Any, float]]:
        """Batches of a logical worker in a step, each with the weight of its mean loss."""
        share = self.share(place.step, place.worker)
        pieces = self.micro_batches(share)
        if self.options.data_workers:
            if self._prefetch is None or not self._prefetch.is_at(place):
                self._prefetch = None  # ends its processes before others are started
                self._prefetch = Prefetch(self, place)
            found = [self._prefetch.take() for _ in pieces]
        else:
            epoch = self.epoch(place.step)
            found = [self.fetch(epoch, ids) for ids in pieces]
        weights = [len(ids) * self.workers / share.step_samples for ids in pieces]
        return list(zip(found, weights, strict=True))

    def close(self) -> None:
        """Ends the data workers."""
        self._prefetch = None

    def fetch(self, epoch: int, ids: Sequence[int]) -> Any:
        """The batch of these samples, read here."""
        if type(self.dataset) is TensorDataset and self._collate is default_collate:
            return as_batch([tensor[list(ids)] for tensor in self.dataset.tensors])
        keyed = _Keyed(self)
        return as_batch(self._collate([keyed[epoch, sample] for sample in ids]))

    def torch_loader(self, keys: Callable[[], Iterator[list[tuple[int, int]]]]) -> Any:
        """A DataLoader that reads lists of (epoch, id) in `data_workers` processes."""
        return DataLoader(
            _Keyed(self),
            batch_sampler=_Keys(keys),
            num_workers=self.options.data_workers,
            collate_fn=self._collate,
            generator=torch.Generator(),  # the default one is a logical worker's
        )


class Prefetch:
    """Reads ahead what this process will train if its logical workers stay the same."""

    def __init__(self, loader: Loader, place: Place) -> None:
        """Starts the data workers at `place`."""
        self._carried = place.carried
        self._loader = loader
        self._expected = self._turns(place)
        self._next: tuple[int, int, Sequence[int]] | None = next(self._expected)
        self._batches = iter(loader.torch_loader(lambda: self._keys(place)))

    def is_at(self, place: Place) -> bool:
        """Whether the next batch is the first of `place`, for the same workers."""
        at = self._next
        return at is not None and place.carried == self._carried and at[:2] == self._key(place)

    def take(self) -> Any:
        """The next batch."""
        self._next = next(self._expected, None)
        return as_batch(next(self._batches))

    @staticmethod
    def _key(place: Place) -> tuple[int, int]:
        return place.step, place.worker

    def _turns(self, place: Place) -> Iterator[tuple[int, int, Sequence[int]]]:
        """(step, worker, ids) of each batch from `place` on."""
        loader = self._loader
        for step in range(place.step, len(loader)):
            for worker in place.carried:
                if (step, worker) >= self._key(place):
                    for ids in loader.micro_batches(loader.share(step, worker)):
                        yield step, worker, ids

    def _keys(self, place: Place) -> Iterator[list[tuple[int, int]]]:
        for step, _, ids in self._turns(place):
            yield [(self._loader.epoch(step), sample) for sample in ids]


class _Keyed(Dataset[Any]):
    """Samples by (epoch, id), for data workers."""

    def __init__(self, loader: Loader) -> None:
        self._dataset, self._seed = loader.dataset, loader.options.seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        seed_all(stream_seed(self._seed, "sample", *key))
        return self._dataset[key[1]]

    def __len__(self) -> int:
        return len(self._dataset)


class _Keys:
    """Something that can be iterated, of a function."""

    def __init__(self, keys: Callable[[], Iterator[list[tuple[int, int]]]]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._keys()
