"""Elastic jobs of one process: data, contexts, state, and what is refused with which words."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torchtide as tide  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402
from torchtide import _core  # noqa: E402
from torchtide.elastic import state as states  # noqa: E402
from torchtide.elastic.data import Loader, LoaderOptions, seed_all  # noqa: E402
from torchtide.elastic.run import DESCRIPTOR, Run  # noqa: E402
from torchtide.errors import OptionError  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def loader(samples: int, workers: int, batch_size: int = 3, **given: Any) -> Loader:
    options = LoaderOptions(workers, batch_size, **({"seed": 7} | given))
    return Loader(TensorDataset(torch.arange(samples)), options)


@pytest.mark.parametrize("samples", [5, 15, 16, 29, 30, 31, 61])
def test_every_sample_of_an_epoch_is_given_out_exactly_once(samples: int) -> None:
    data = loader(samples, workers=5, epochs=2)
    for epoch in range(2):
        seen: Counter[int] = Counter()
        for index in range(data.steps_per_epoch):
            step = epoch * data.steps_per_epoch + index
            shares = [data.share(step, worker) for worker in range(5)]
            assert max(len(s.ids) for s in shares) - min(len(s.ids) for s in shares) <= 1
            assert sum(len(s.ids) for s in shares) == shares[0].step_samples
            for share in shares:
                seen.update(share.ids)
        assert seen == Counter(range(samples))
    assert data.order(0) != data.order(1)


def test_a_share_does_not_depend_on_what_was_asked_before() -> None:
    first, second = loader(100, 4, epochs=3), loader(100, 4, epochs=3)
    places = [(step, worker) for step in range(len(first)) for worker in range(4)]
    in_order = {place: first.share(*place).ids for place in places}
    random.Random(1).shuffle(places)
    assert {place: second.share(*place).ids for place in places} == in_order


def test_what_a_sample_draws_depends_on_epoch_and_id_only() -> None:
    class Drawing(torch.utils.data.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Any:
            return torch.rand(2) + random.random()

    data = Loader(Drawing(), LoaderOptions(2, 2, seed=1, epochs=2))
    seed_all(1)
    first = data.fetch(0, [3, 4])
    seed_all(2)
    assert torch.equal(data.fetch(0, [4, 3]).flip(0), first)
    assert not torch.equal(data.fetch(1, [3, 4]), first)


def small(run: Run, samples: int = 26, **given: Any) -> Any:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 4, generator=generator)
    y = torch.randint(0, 3, (samples,), generator=generator)
    return run.prepare(model, optimizer, TensorDataset(x, y), **({"batch_size": 2} | given))


def test_a_mean_over_workers_is_the_gradient_of_the_whole_batch() -> None:
    weights = []
    for workers, batch_size, accumulate in [(1, 8, 1), (4, 2, 1), (2, 2, 2)]:
        torch.manual_seed(2)
        model = nn.Linear(4, 3).double()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(27, 4, generator=generator).double()  # the tail has three samples
        y = torch.randint(0, 3, (27,), generator=generator)
        with Run(workers, (1, 1)) as run:
            _, _, data = run.prepare(
                model, optimizer, TensorDataset(x, y), batch_size=batch_size, accumulate=accumulate
            )
            for batch in run.iterations(data):
                run.backward(nn.functional.cross_entropy(model(batch.x), batch.y))
                run.step()
        weights.append(model.weight.detach())
    torch.testing.assert_close(weights[1], weights[0])
    torch.testing.assert_close(weights[2], weights[0])


def test_the_decorator_hands_over_a_run_and_the_loop_says_who_is_trained() -> None:
    @tide.elastic(workers=3)
    def train(run: Run, factor: int) -> list[int]:
        model, _, data = small(run)
        ids = []
        for batch in run.iterations(data):
            ids.append(run.worker_id * factor)
            run.backward(nn.functional.cross_entropy(model(batch.x), batch.y))
            run.step()
        assert run.step_index == len(data) == 5
        assert (run.processes, run.generation, run.carried, run.epoch) == (1, 0, range(3), 1)
        return ids

    assert train(10) == [0, 10, 20] * 4 + [0, 10]  # two samples are left: two workers have one


def test_running_statistics_are_those_of_a_workers_own_batches() -> None:
    x = torch.arange(24.0).reshape(12, 2)
    model = nn.BatchNorm1d(2)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with Run(2, (1, 1)) as run:
        _, _, data = run.prepare(model, optimizer, TensorDataset(x), batch_size=3, shuffle=False)
        for (batch,) in run.iterations(data):
            run.backward(model(batch).sum())
            run.step()
        found = [run._slot(2, worker).buffers[0].clone() for worker in range(2)]
    for worker in range(2):
        alone = nn.BatchNorm1d(2)
        for at in (3 * worker, 6 + 3 * worker):
            alone(x[at : at + 3])
        assert torch.equal(found[worker], alone.running_mean)
    assert torch.equal(model.running_mean, found[0])  # evaluation sees worker 0's


def test_an_unused_parameter_keeps_no_gradient() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return self.used(x)

    model = Half()
    before = model.unused.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.5)
    with Run(2, (1, 1)) as run:
        _, _, data = run.prepare(model, optimizer, TensorDataset(torch.randn(8, 4)), batch_size=2)
        for (x,) in run.iterations(data):
            run.backward(model(x).sum())
            run.step()
    assert torch.equal(model.unused.weight, before)


def test_a_state_travels_without_pickle() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tree = {"o": optimizer.state_dict(), "t": (1, [None, float("inf"), 0.1]), "e": torch.empty(0)}
    packed = states.Packed(tree)
    view = memoryview(bytearray(packed.size_bytes))
    packed.write(view)
    found = states.unpack(view)
    assert found["t"] == tree["t"] and found["e"].numel() == 0
    assert found["o"]["param_groups"] == tree["o"]["param_groups"]
    assert torch.equal(found["o"]["state"][0]["exp_avg"], tree["o"]["state"][0]["exp_avg"])
    with pytest.raises(OptionError, match=r"state\.f is a function"):
        states.Packed({"f": len.__class__ and (lambda: 0)})


# What is refused


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"workers": 0}, "an integer from 1 to 256"),
        ({"workers": True}, "an integer from 1 to 256"),
        ({"workers": 2, "threads": 0}, "threads=0"),
        ({"workers": 2, "processes": (1, 3)}, "cannot occupy more than 2 processes"),
        ({"workers": 2, "processes": (0, 1)}, "the fewest at least 1"),
        ({"workers": 2, "processes": (2, 1)}, "the fewest and the most"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tide.elastic(**given)


def test_two_processes_cannot_be_one() -> None:
    with pytest.raises(OptionError, match="tide run --processes 2:4"), Run(4, (2, 4)):
        pass


def test_data_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(OptionError, match="3 samples cannot feed 4 logical workers"):
        loader(3, 4)
    with pytest.raises(OptionError, match="no full step of 12"):
        loader(11, 4, drop_last=True)
    with pytest.raises(OptionError, match="batch_size=0"):
        loader(9, 4, batch_size=0)


def test_a_loop_that_breaks_the_rules_is_told_which() -> None:
    with Run(2, (1, 1)) as run:
        model, _, data = small(run)
        with pytest.raises(OptionError, match="only the loader that `prepare` returned"):
            next(run.iterations([1, 2]))  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="belongs into the body"):
            run.backward(torch.ones(()))
        batches = run.iterations(data)
        batch = next(batches)
        with pytest.raises(OptionError, match="once for each batch"):
            run.step()
        run.backward(model(batch.x).sum())
        with pytest.raises(OptionError, match=r"did not call run\.step"):
            next(batches)


def test_another_number_of_threads_is_noticed() -> None:
    with Run(2, (1, 1)) as run:
        _, _, data = small(run)
        torch.set_num_threads(2)
        with pytest.raises(OptionError, match="computes with 1 threads"):
            next(run.iterations(data))


def test_the_mean_of_sparse_gradients_has_the_rows_that_any_worker_touched() -> None:
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append(model.weight.grad)
            return super().step(closure)

    model = nn.Embedding(6, 2, sparse=True)
    ids = TensorDataset(torch.tensor([0, 2, 2, 5]))
    with Run(2, (1, 1)) as run:
        _, _, data = run.prepare(
            model, Spy(model.parameters(), 0.1), ids, batch_size=2, shuffle=False, max_norm=9.0
        )
        for (x,) in run.iterations(data):
            run.backward((model(x) * torch.tensor([1.0, 0.0])).sum())
            run.step()
    (gradient,) = seen
    assert gradient.is_sparse and gradient.indices().tolist() == [[0, 2, 5]]
    assert gradient.values().tolist() == [[0.5, 0.0], [1.0, 0.0], [0.5, 0.0]]


def test_unexpected_sparse_gradients_and_foreign_optimizers_are_refused() -> None:
    ids = TensorDataset(torch.arange(4))
    with Run(1, (1, 1)) as run:
        model = nn.Embedding(5, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        _, _, data = run.prepare(model, optimizer, ids, batch_size=2)
        (x,) = next(run.iterations(data))
        run.backward(nn.functional.embedding(x, model.weight, sparse=True).sum())
        with pytest.raises(OptionError, match=r"must come from nn\.Embedding\(sparse=True\)"):
            run.step()
    with Run(1, (1, 1)) as run, pytest.raises(OptionError, match="other parameters"):
        run.prepare(nn.Linear(1, 1), optimizer, ids, batch_size=2)


def test_a_process_that_differs_is_refused_with_what_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    descriptor = _core.elastic_create(1, 2, 1)
    monkeypatch.setenv(DESCRIPTOR, str(descriptor))
    with Run(2, (1, 2)) as first:
        small(first)
        with Run(2, (1, 2)) as second, pytest.raises(OptionError, match=r"batch_size 3.*has 2"):
            small(second, batch_size=3)
        with (
            Run(2, (1, 2), threads=2) as third,
            pytest.raises(OptionError, match="threads 2, the job has 1"),
        ):
            small(third)
        monkeypatch.setattr(torch, "__version__", "0.0")
        with Run(2, (1, 2)) as fourth, pytest.raises(OptionError, match=r"torch '0\.0'"):
            small(fourth)
    os.close(descriptor)


def test_a_loss_that_is_no_number_reaches_every_weight_and_no_process_waits() -> None:
    with Run(2, (1, 1)) as run:
        model, _, data = small(run)
        for batch in run.iterations(data):
            loss = nn.functional.cross_entropy(model(batch.x), batch.y)
            run.backward(loss * float("nan") if run.worker_id == 1 else loss)
            if run.step():
                break
    assert all(torch.isnan(parameter).all() for parameter in model.parameters())


def test_what_is_done_between_steps_changes_nothing_and_may_end_the_loop() -> None:
    def digest(watch: bool) -> tuple[list[int], str]:
        steps, last = [], ""
        with Run(3, (1, 1)) as run:
            model, _, data = small(run, epochs=2)

            def look() -> None:
                nonlocal last
                steps.append(run.step_index)
                last = run.digest()
                if watch:
                    run.take_up(2)
                    model(torch.rand(5, 4))
                    random.random()
                if run.step_index == 7:
                    run.stop()

            run.on_step(look)
            for batch in run.iterations(data):
                with pytest.raises(OptionError, match="between two steps"):
                    run.take_up()
                run.backward(nn.functional.cross_entropy(model(batch.x), batch.y))
                run.step()
            assert run.step_index == 7 < len(data)
        return steps, last

    assert digest(True) == digest(False)
    assert digest(True)[0] == list(range(1, 8))


def test_a_state_that_could_not_travel_trains_on_while_nobody_joins() -> None:
    with Run(2, (1, 2)) as run:
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        data = torch.utils.data.TensorDataset(torch.randn(16, 3))
        _, _, loader = run.prepare(model, optimizer, data, batch_size=2)
        run._group = True  # as under `tide run --processes`
        for (x,) in run.iterations(loader):
            run.backward(model(x).square().mean())
            if run.step():
                optimizer.state[model.weight]["odd"] = object()
        assert run.step_index == 4 and run._expected
