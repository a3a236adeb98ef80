"""Checks: the job's figures and pauses stand in what TensorBoard, W&B and MLflow have kept."""

from __future__ import annotations

import itertools
import os
import pathlib
import threading
from typing import Any

import torch
import torchtide as tide
from checks import Skip, check, main
from torch import nn
from torchtide import tracking
from torchtide._gate import GATE

torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4))
optimizer = torch.optim.Adam(model.parameters())
FOLDER = pathlib.Path(os.environ["CHECKS_OUT"]).parent


def train(steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 512)).square().mean().backward()
        optimizer.step()
    GATE.end()


def pause_and_resume() -> None:
    """The next iteration waits until another thread resumes the job."""
    GATE.end()
    tide.pause()
    notice, told = GATE._notice.paused, threading.Event()
    GATE._notice.paused = lambda: (notice(), told.set())  # type: ignore[method-assign]
    waker = threading.Thread(target=lambda: (told.wait(60), tide.resume()))
    waker.start()
    train(1)
    waker.join()
    GATE._notice.paused = notice  # type: ignore[method-assign]


def points_in_tensorboard(folder: pathlib.Path) -> dict[str, list[Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {tag: read.Scalars(tag) for tag in read.Tags()["scalars"]}


@check
def tensorboard_has_the_curves_and_the_pause() -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Skip("tensorboard is not installed") from error
    folder = FOLDER / "board"
    with SummaryWriter(folder) as writer:
        assert tide.track(writer, every=4)
        train(12)
        pause_and_resume()
    GATE.on_begun = None
    found = points_in_tensorboard(folder)
    assert set(found) == {*tracking.CURVES, tracking.PAUSED}
    steps = [point.step for point in found["tide/memory_bytes"]]
    assert len(steps) >= 3 and all(b - a == 4 for a, b in itertools.pairwise(steps))
    assert found["tide/memory_bytes"][-1].value >= 512 * 512 * 4
    (paused,) = found[tracking.PAUSED]
    assert paused.value > 0


@check
def a_job_marks_pauses_and_limits_in_the_writer_that_its_script_has_open() -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Skip("tensorboard is not installed") from error
    with SummaryWriter(FOLDER / "closed"):
        pass  # what is closed is not written to
    with SummaryWriter(FOLDER / "marks") as writer:
        tracking.install()  # as at the start of a job
        train(tracking.EVERY)
        pause_and_resume()
        tide.set_limit("8GiB")
        train(tracking.EVERY)
        tide.set_limit(None)
        writer.add_scalar("loss", 1.0, 1)
    GATE.on_begun = None
    found = points_in_tensorboard(FOLDER / "marks")
    assert set(found) == {"loss", tracking.PAUSED, tracking.LIMIT}, set(found)
    assert [point.value for point in found[tracking.LIMIT]] == [8 << 30]
    assert len(found[tracking.PAUSED]) == 1
    assert points_in_tensorboard(FOLDER / "closed") == {}


@check
def a_wandb_run_gets_the_points_with_its_own_steps() -> None:
    try:
        import wandb
    except ImportError as error:
        raise Skip("wandb is not installed") from error
    settings = wandb.Settings(mode="offline", silent=True, console="off", x_disable_stats=True)
    assert tide.track(every=1)
    train(1)
    assert wandb.run is None
    with wandb.init(project="tide", dir=FOLDER, settings=settings) as run:
        for step in range(3):
            train(1)
            wandb.log({"loss": step})
        pause_and_resume()
        wandb.log({"loss": 3})
        kept = dict(run.summary)
    GATE.on_begun = None
    assert kept["_step"] == 3, kept
    assert kept["tide/memory_bytes"] >= 512 * 512 * 4, kept
    assert kept[tracking.PAUSED] > 0, kept


@check
def a_limit_that_moves_is_a_point_of_its_own() -> None:
    class Kept:
        def __init__(self) -> None:
            self.points: list[tuple[str, float]] = []

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.points.append((tag, scalar_value))

    kept = Kept()
    tide.track(kept, every=1000)
    train(3)
    tide.set_limit("8GiB")
    train(3)
    tide.set_limit(None)
    train(3)
    GATE.on_begun = None
    limits = [value for tag, value in kept.points if tag == tracking.LIMIT]
    assert limits == [0.0, float(8 << 30), 0.0], limits
    assert len(kept.points) == len(tracking.CURVES) + 2


@check
def an_active_mlflow_run_gets_the_points_and_none_is_started() -> None:
    try:
        import mlflow
    except ImportError as error:
        raise Skip("mlflow is not installed") from error
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # what mlflow-skinny can do without a server
    mlflow.set_tracking_uri((FOLDER / "mlruns").as_uri())
    assert tide.track(every=2)
    train(3)
    assert mlflow.active_run() is None
    seen = iter(range(100, 200))
    tide.track(every=2, step=lambda: next(seen))
    with mlflow.start_run() as run:
        train(6)
    GATE.on_begun = None
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "tide/memory_bytes")
    assert [point.step for point in history] == [100, 101, 102], history


@check
def a_tracker_that_fails_does_not_stop_the_job() -> None:
    class Full:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            raise OSError("No space left on device")

    tide.track(Full(), every=1)
    before = tide.report()["iterations"]
    train(5)
    assert GATE.on_begun is None
    assert tide.report()["iterations"] == before + 5


@check
def a_period_below_one_is_refused() -> None:
    try:
        tide.track(every=0)
    except ValueError as error:
        assert "every=0" in str(error)
    else:
        raise AssertionError("it was taken")


@check
def off_adds_nothing_and_an_unknown_word_is_refused() -> None:
    from torchtide import _core

    _core.set_option("track", "off", "call")
    tracking.install()
    assert GATE.on_begun is None
    _core.set_option("track", "all", "call")
    try:
        tracking.check_option()
    except ValueError as error:
        assert "TIDE_TRACK='all'" in str(error) and "markers, curves, off" in str(error)
    else:
        raise AssertionError("it was taken")
    finally:
        _core.set_option("track", "markers", "call")


if __name__ == "__main__":
    tide.start()
    train(4)
    main()
