"""Reports of noise scale and goodput, policies that choose a size, rules for the learning rate."""

from __future__ import annotations

import dataclasses
import math

import pytest

torch = pytest.importorskip("torch")

from torchtide.elastic import adapt  # noqa: E402
from torchtide.elastic.run import Run  # noqa: E402
from torchtide.errors import OptionError  # noqa: E402

REPORT = adapt.Report(
    step=10,
    processes=2,
    bounds=(1, 4),
    workers=8,
    batch=64,
    worker_batch=8,
    seconds={1: 4.0, 2: 2.0},
    noise_scale=192.0,
)


def test_the_noise_scale_of_drawn_gradients_is_the_one_they_were_drawn_with() -> None:
    generator = torch.Generator().manual_seed(1)
    size, workers, each, noise = 200, 8, 4, 3.0
    true = torch.full((size,), 0.5)
    scale = size * noise**2 / float(true.square().sum())  # tr(S) / |G|^2
    found = adapt.NoiseScale(workers, each)
    values = []
    for _ in range(600):
        drawn = torch.randn(workers, size, generator=generator) * noise / math.sqrt(each) + true
        norms = [float(one.square().sum()) for one in drawn]
        found.add(norms, float(drawn.mean(0).square().sum()))
        values.append(found.value)
    assert values[:4] == [None] * 4
    late = [value for value in values[100:] if value is not None]
    assert len(late) == 500 and abs(sum(late) / 500 / scale - 1) < 0.1


def test_steps_that_are_no_number_say_nothing_and_a_state_travels() -> None:
    one, other = adapt.NoiseScale(2, 1), adapt.NoiseScale(2, 1)
    for _ in range(9):
        one.add([3.0, 5.0], 3.0)
    before = one.value
    assert before == pytest.approx((4 - 3) / (1 - 0.5) / ((2 * 3 - 4) / (2 - 1)))
    one.add([math.nan, 1.0], 3.0)
    one.add([math.inf, 1.0], math.inf)
    other.adopt(one.state())
    assert one.value == other.value == before
    opposite = adapt.NoiseScale(2, 1)
    for _ in range(9):
        opposite.add([4.0, 4.0], 0.0)  # the workers' gradients cancel out: no signal
    assert opposite.value is None


def test_a_run_measures_what_its_workers_gradients_say() -> None:
    norms: list[list[float]] = []
    means: list[float] = []
    with Run(2, (1, 1)) as run:
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        data = torch.utils.data.TensorDataset(torch.randn(22, 3))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        _, _, loader = run.prepare(
            model, optimizer, data, batch_size=3, epochs=4, scaler=scaler, noise_scale=True
        )
        gradients: list[torch.Tensor] = []
        for (x,) in run.iterations(loader):
            with pytest.raises(OptionError, match="between two steps"):
                run.report()
            run.backward(model(x).square().mean())
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()]) / 1024.0
            gradients.append(gradient.double())
            if not run.step():
                continue
            if len(x) == 3:  # the last step of an epoch has fewer samples, and is not looked at
                norms.append([float(one.square().sum()) for one in gradients])
                means.append(float(((gradients[0] + gradients[1]) / 2).square().sum()))
            gradients.clear()
        assert run.step_index == 16 and len(norms) == 12
        expected = adapt.NoiseScale(2, 3)
        for norm, mean in zip(norms, means, strict=True):
            expected.add(norm, mean)
        report = run.report()
        assert report.noise_scale == pytest.approx(expected.value, rel=1e-5)
        assert (report.batch, report.worker_batch, report.processes) == (6, 3, 1)
        assert report.seconds.keys() == {1} and report.as_dict()["goodput"][1] > 0


def test_one_worker_has_nothing_to_compare_with() -> None:
    with Run(1, (1, 1)) as run:
        model = torch.nn.Linear(2, 1)
        with pytest.raises(OptionError, match="at least two logical workers"):
            run.prepare(
                model,
                torch.optim.SGD(model.parameters(), 0.1),
                torch.utils.data.TensorDataset(torch.randn(4, 2)),
                batch_size=2,
                noise_scale=True,
            )


def test_goodput_is_throughput_that_counts() -> None:
    assert REPORT.throughput(2) == 32.0 and REPORT.throughput(3) is None
    assert REPORT.efficiency(64) == pytest.approx((192 + 8) / (192 + 64))
    assert REPORT.efficiency(64, reference=64) == 1.0
    assert REPORT.goodput(2) == pytest.approx(32 * 200 / 256)
    assert REPORT.goodput(3) is None
    unknown = dataclasses.replace(REPORT, noise_scale=None)
    assert unknown.goodput(2) is None and unknown.efficiency(8) is None
    assert unknown.as_dict()["throughput"] == {1: 16.0, 2: 32.0}


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({}, 1),
        ({1: 4.0}, 2),
        ({1: 4.0, 2: 2.0}, 3),
        ({1: 4.0, 2: 3.9}, 1),
        ({1: 4.0, 2: 2.0, 3: 1.9}, 2),
        ({1: 4.0, 2: 2.0, 3: 1.4, 4: 1.05}, 4),
    ],
)
def test_a_process_stays_where_it_gains_enough(seconds: dict[int, float], wanted: int) -> None:
    assert adapt.Marginal(0.5)(dataclasses.replace(REPORT, seconds=seconds)) == wanted


def test_gains_out_of_range_are_refused() -> None:
    for gain in (0.0, 1.5, -1.0, math.nan):
        with pytest.raises(OptionError, match="share of an ideal process"):
            adapt.Marginal(gain)


def test_rules_for_the_learning_rate() -> None:
    scaled = adapt.scaled_learning_rate
    assert scaled(0.1, "none", 32, 128) == 0.1
    assert scaled(0.1, "linear", 32, 128) == pytest.approx(0.4)
    assert scaled(0.1, "sqrt", 32, 128) == pytest.approx(0.2)
    assert scaled(0.1, "adascale", 32, 128, 1e12) == pytest.approx(0.4)  # all noise: linear
    assert scaled(0.1, "adascale", 32, 128, 0.0) == pytest.approx(0.1)  # none: not at all
    with pytest.raises(OptionError, match="noise scale"):
        scaled(0.1, "adascale", 32, 128)
    with pytest.raises(OptionError, match="none, linear, sqrt, adascale"):
        scaled(0.1, "cubic", 32, 128)
    with pytest.raises(OptionError, match="at least one sample"):
        scaled(0.1, "linear", 0, 128)
