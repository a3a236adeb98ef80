"""Data workers, DataLoaders and streams of elastic jobs: same samples, clear refusals."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.data import (  # noqa: E402
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)
from torchtide.elastic.run import Run  # noqa: E402
from torchtide.errors import OptionError  # noqa: E402

WORKERS = 3


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Noisy(Dataset[Any]):
    """Draws from the random streams; one sample may be broken."""

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 31

    def __getitem__(self, index: int) -> Any:
        if index == self.broken:
            raise ValueError("sample 7 is rotten")
        return torch.randn(4) + index, index % 3


class Numbers(IterableDataset[Any]):
    """A stream that skips the others' parts, with its place."""

    def __init__(self, count: int = 20, told: str = "x") -> None:
        self.count, self.told = count, told
        self.at = 0

    def __iter__(self) -> Any:
        info = get_worker_info()
        assert info is not None
        while self.at < self.count:
            number = self.at
            self.at += 1
            if number % info.num_workers == info.id:
                yield torch.tensor([float(number)]), number

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Job:
    """A linear net; remembers the batches."""

    def __init__(self, data: Any, inputs: int = 4, **given: Any) -> None:
        torch.manual_seed(2)
        self.model = nn.Sequential(nn.Linear(inputs, 3), nn.Dropout(0.2))
        optimizer = torch.optim.SGD(self.model.parameters(), 0.01)
        self.run = Run(WORKERS, (1, 1))
        _, _, self.loader = self.run.prepare(self.model, optimizer, data, **given)
        self.seen: list[tuple[int, list[int]]] = []

    def train(self, steps: int = 1000) -> list[str]:
        found: list[str] = []
        with self.run:
            for batch in self.run.iterations(self.loader):
                self.seen.append((self.run.worker_id, batch.y.tolist()))
                self.run.backward(self.model(batch.x).square().mean())
                if self.run.step():
                    found.append(self.run.digest())
                    if len(found) == steps:
                        break
        return found


def test_data_workers_give_the_same_bits_as_none() -> None:
    given: dict[str, Any] = {"batch_size": 2, "epochs": 2, "accumulate": 2}
    plain = Job(Noisy(), **given)
    ahead = Job(Noisy(), data_workers=2, **given)
    assert ahead.train() == plain.train()
    assert ahead.seen == plain.seen


def test_a_data_loader_says_how_to_read() -> None:
    loader = DataLoader(Noisy(), batch_size=2, shuffle=True, drop_last=True, num_workers=1)
    job = Job(loader, epochs=2)
    assert (job.loader.batch_size, len(job.loader)) == (2, 2 * (31 // 6))
    plain = Job(Noisy(), batch_size=2, steps=5)
    assert job.train()[:5] == plain.train()
    ordered = Job(DataLoader(Noisy(), batch_size=5))
    ordered.train(1)
    assert ordered.seen == [(w, [i % 3 for i in range(5 * w, 5 * w + 5)]) for w in range(3)]


def test_who_chooses_samples_by_itself_is_refused() -> None:
    weighted = DataLoader(Noisy(), sampler=WeightedRandomSampler([1.0] * 31, 31))
    with pytest.raises(OptionError, match="WeightedRandomSampler chooses samples by itself"):
        Job(weighted)
    batched = DataLoader(Noisy(), batch_sampler=[[0, 1], [2]])
    with pytest.raises(OptionError, match="its batch sampler chooses"):
        Job(batched)
    with pytest.raises(OptionError, match="how large a batch"):
        Job(Noisy())
    with pytest.raises(OptionError, match="data_workers=-1"):
        Job(Noisy(), batch_size=1, data_workers=-1)


def test_an_error_in_a_data_worker_is_the_jobs_error() -> None:
    with pytest.raises(ValueError, match="sample 7 is rotten"):
        Job(Noisy(broken=7), batch_size=2, data_workers=1).train()


def test_a_stream_is_divided_among_workers_and_begins_again() -> None:
    job = Job(Numbers(), inputs=1, batch_size=2, steps=5)
    job.train()
    parts: list[list[int]] = [[], [], []]
    for worker, numbers in job.seen:
        parts[worker] += numbers
    assert parts == [
        [0, 3, 6, 9, 12, 15, 18, 0, 3, 6],
        [1, 4, 7, 10, 13, 16, 19, 1, 4, 7],
        [2, 5, 8, 11, 14, 17, 2, 5, 8, 11],
    ]


@pytest.mark.parametrize("kept", ["dataset", "iterator"])
def test_a_stream_goes_on_from_a_checkpoint(kept: str, tmp_path: pathlib.Path) -> None:
    class Places:
        """An iterator that keeps its own place."""

        def __init__(self) -> None:
            self.inner = Numbers()
            self.samples = iter(self.inner)
            self.state_dict = self.inner.state_dict
            self.load_state_dict = self.inner.load_state_dict

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            return next(self.samples)

    class Outer(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return Places()

    def stream() -> Any:
        return Numbers() if kept == "dataset" else Outer()

    whole = Job(stream(), inputs=1, batch_size=2, steps=9).train()
    first = Job(stream(), inputs=1, batch_size=2, steps=9)
    assert first.train(5) == whole[:5]
    first.run.save(tmp_path / "run.pt")
    then = Job(stream(), inputs=1, batch_size=2, steps=9)
    then.run.load(tmp_path / "run.pt")
    assert then.train() == whole[5:]


def test_streams_that_cannot_be_trained_are_refused() -> None:
    class Forgetful(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([])

    class Whole(Numbers):
        def __iter__(self) -> Any:
            yield torch.zeros(1), 0

    given: dict[str, Any] = {"inputs": 1, "batch_size": 2}
    with pytest.raises(OptionError, match=r"Numbers has no length.*steps=10000"):
        Job(Numbers(), **given)
    with pytest.raises(OptionError, match="cannot say its place"):
        Job(Forgetful(), steps=2, **given)
    with pytest.raises(OptionError, match="read in the training process"):
        Job(Numbers(), steps=2, data_workers=1, **given)
    with pytest.raises(OptionError, match="would train the same samples"):
        Job(Whole(), steps=2, **given).train()
    with pytest.raises(OptionError, match="part of logical worker 2 is empty"):
        Job(Numbers(count=2), steps=2, **given).train()
    with pytest.raises(OptionError, match=r"there are 4096; prepare\(..., stream_bytes="):
        Job(Numbers(told="x" * 5000), steps=2, **given).train()


def test_what_has_neither_length_nor_a_stream_is_refused() -> None:
    class Endless(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return index

    with pytest.raises(OptionError, match="Endless has no length"):
        Job(Endless(), batch_size=1)
    with pytest.raises(OptionError, match="2 samples cannot feed 3"):
        Job(TensorDataset(torch.zeros(2, 4)), batch_size=1)
