"""State of an elastic run in a file: who reads it, when it may be taken, and what is refused."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402
from torchtide.elastic import checkpoint  # noqa: E402
from torchtide.elastic.run import Run  # noqa: E402
from torchtide.errors import OptionError  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Job:
    """A small net with running statistics and dropout, and its run."""

    def __init__(self, workers: int = 3, **given: Any) -> None:
        torch.manual_seed(2)
        self.model = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        optimizer = torch.optim.AdamW(self.model.parameters(), 1e-2)
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(30, 4, generator=generator)
        y = torch.randint(0, 3, (30,), generator=generator)
        self.run = Run(workers, (1, 1))
        options = {"batch_size": 2, "epochs": 2, "max_norm": 1.0} | given
        _, _, self.loader = self.run.prepare(self.model, optimizer, TensorDataset(x, y), **options)

    def train(self, steps: int = 1000) -> list[str]:
        """Digests of at most that many steps."""
        found: list[str] = []
        for batch in self.run.iterations(self.loader):
            self.run.backward(nn.functional.cross_entropy(self.model(batch.x), batch.y))
            if self.run.step():
                found.append(self.run.digest())
                if len(found) == steps:
                    break
        return found


def test_a_run_goes_on_from_its_file_and_may_see_the_data_more_often(
    tmp_path: pathlib.Path,
) -> None:
    whole = Job(epochs=3).train()
    first = Job()
    assert first.train(4) == whole[:4]
    first.run.save(tmp_path / "run.pt")
    then = Job(epochs=3)
    then.run.load(tmp_path / "run.pt")
    assert (then.run.step_index, then.run.epoch) == (4, 0)
    assert then.train() == whole[4:]
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_file_of_the_beginning_and_one_of_the_end_are_files_like_others(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "run.pt"
    job = Job()
    job.run.save(path)
    whole = job.train()
    again = Job()
    again.run.load(path)
    assert again.train() == whole
    again.run.save(path)
    longer = Job(epochs=3)
    longer.run.load(path)
    assert longer.train() == Job(epochs=3).train()[len(whole) :]


def test_plain_torch_loads_the_model_with_the_statistics_of_worker_zero(
    tmp_path: pathlib.Path,
) -> None:
    job = Job()
    job.train()
    job.run.save(tmp_path / "run.pt")
    state = torch.load(tmp_path / "run.pt", weights_only=True)["model"]
    assert list(state) == list(job.model.state_dict())
    for name, value in job.model.state_dict().items():  # after the loop: those of worker 0
        assert torch.equal(state[name], value), name


def test_a_half_done_step_has_no_state(tmp_path: pathlib.Path) -> None:
    job = Job()
    batches = job.run.iterations(job.loader)
    next(batches)
    with pytest.raises(OptionError, match=r"half done.*run\.step\(\) has returned True"):
        job.run.save(tmp_path / "run.pt")
    with pytest.raises(OptionError, match="between prepare and the loop"):
        job.run.load_state_dict({})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"workers": 4}, "workers 3, this run has 4"),
        ({"batch_size": 3}, "batch_size 2, this run has 3"),
        ({"max_norm": None}, "max_norm 1.0, this run has None"),
    ],
)
def test_the_state_of_another_run_is_refused(given: dict[str, Any], words: str) -> None:
    state = Job().run.state_dict()
    with pytest.raises(OptionError, match=words):
        Job(**given).run.load_state_dict(state)


def test_another_torch_is_refused_unless_other_bits_will_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = Job().run.state_dict()
    monkeypatch.setattr(torch, "__version__", "0.0")
    with pytest.raises(OptionError, match="exact=False goes on"):
        Job().run.load_state_dict(state)
    Job().run.load_state_dict(state, exact=False)


def test_a_damaged_file_is_refused_and_a_failed_write_leaves_the_old_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    job = Job()
    job.run.save(path)
    whole = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="no space"):
            job.run.save(path)
    assert path.read_bytes() == whole and len(list(tmp_path.iterdir())) == 1
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OptionError, match="cannot be read"):
        Job().run.load(path)
    with pytest.raises(OptionError, match="no such file"):
        Job().run.load(tmp_path / "none.pt")
    state = job.run.state_dict()
    with torch.no_grad():
        state["model"]["0.weight"] += 1
    with pytest.raises(OptionError, match="does not match its checksum"):
        checkpoint.check(state, "load")
    with pytest.raises(OptionError, match="format 7"):
        checkpoint.check(state | {"format": 7}, "load")
    with pytest.raises(OptionError, match="no state of an elastic run"):
        checkpoint.check({}, "load")
