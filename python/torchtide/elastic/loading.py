"""Chooses how data are read: from a dataset, a DataLoader or a stream."""

from __future__ import annotations

from typing import Any

from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from torchtide.elastic.data import Loader, LoaderOptions
from torchtide.elastic.stream import StreamLoader
from torchtide.errors import OptionError

AnyLoader = Loader | StreamLoader


def make_loader(
    data: Any, batch_size: int | None, options: dict[str, Any], stream_bytes: int
) -> AnyLoader:
    """The loader of a job; see `Run.prepare`. Raises OptionError for what cannot be divided."""
    if isinstance(data, DataLoader):
        batch_size = data.batch_size if batch_size is None else batch_size
        options = options | _options_of(data)
        data = data.dataset
    if batch_size is None:
        raise OptionError(
            "nobody has said how large a batch is",
            asked="prepare",
            advice="prepare(model, optimizer, dataset, batch_size=32)",
        )
    chosen = LoaderOptions(batch_size=batch_size, **options)
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        return StreamLoader(data, chosen, stream_bytes)
    try:
        len(data)
    except (TypeError, NotImplementedError):
        raise OptionError(
            f"{type(data).__name__} has no length: nobody can say which samples are whose",
            asked="prepare",
            advice="use a map-style dataset with __len__ and __getitem__, or an IterableDataset",
        ) from None
    return Loader(data, chosen)


def _options_of(loader: DataLoader[Any]) -> dict[str, Any]:
    """What a DataLoader says about reading; who reads which samples is ours to say."""
    found: dict[str, Any] = {"data_workers": loader.num_workers}
    if loader.collate_fn is not default_collate:
        found["collate"] = loader.collate_fn
    if isinstance(loader.dataset, IterableDataset):
        return found | {"data_workers": 0}
    sampler = loader.sampler
    plain = type(sampler) in (RandomSampler, SequentialSampler) and loader.batch_size is not None
    if not plain or getattr(sampler, "replacement", False):
        name = type(sampler).__name__ if loader.batch_size is not None else "its batch sampler"
        raise OptionError(
            f"{name} chooses samples by itself; each logical worker must have its own",
            asked="prepare(DataLoader)",
            advice="give the dataset, or a DataLoader with shuffle=True or False",
        )
    return found | {
        "shuffle": isinstance(sampler, RandomSampler),
        "drop_last": loader.drop_last,
    }


__all__ = ["AnyLoader", "make_loader"]
