"""`ElasticTrainer`: a LightningModule as N logical workers on any number of processes.

    trainer = ElasticTrainer(workers=8, max_epochs=3)
    trainer.fit(module, train_dataloader, val_dataloader)

The loop is torchtide's (`torchtide.elastic`); it calls the module's steps, hooks, optimizer and
schedule, and logs through Lightning Fabric. See docs/guides/frameworks.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, IterableDataset

from torchtide.elastic import elastic
from torchtide.elastic.run import Run
from torchtide.errors import OptionError
from torchtide.integrations.common import (
    MeanLoss,
    Travelling,
    refuse_overridden,
    require,
    undisturbed,
)

lightning: Any = require("lightning", "lightning")

_ASKED: Final = "ElasticTrainer.fit"
_PRECISIONS: Final = ("32-true", "bf16-mixed")
#: Methods of a module that its own optimizer step would call.
_NOT_CALLED: Final = {
    "optimizer_step": "the step is that of the optimizer, with the mean gradient",
    "optimizer_zero_grad": "gradients are dropped after each logical worker",
    "backward": "return another loss from training_step",
    "configure_gradient_clipping": "ElasticTrainer(gradient_clip_val=...) clips",
    "lr_scheduler_step": "give a schedule that is stepped without arguments",
    "on_before_optimizer_step": "on_train_batch_end comes after each batch",
    "on_before_zero_grad": "on_train_batch_end comes after each batch",
    "on_before_backward": "do it at the end of training_step",
    "on_after_backward": "on_train_batch_end comes after each batch",
}


class _Fabric(lightning.Fabric):  # type: ignore[misc]
    """What a module under way sees as `self.trainer` and logs to."""

    def __init__(self, owner: ElasticTrainer, precision: str, loggers: Any) -> None:
        super().__init__(accelerator="cpu", devices=1, precision=precision, loggers=loggers)
        self._owner = owner

    def log_dict(self, metrics: Any, step: int | None = None) -> None:
        """Takes what a module logs; the means are passed on after the step."""
        del step
        self._owner._take(metrics)

    def write(self, metrics: dict[str, float], step: int) -> None:
        """Passes the means on to the loggers."""
        super().log_dict(metrics, step)

    @property
    def current_epoch(self) -> int:
        """Passes over the data that are complete."""
        return self.global_step // self._owner._per_epoch

    @property
    def global_step(self) -> int:
        """Steps of the optimizer."""
        run = self._owner._run
        return 0 if run is None else run.step_index

    @property
    def max_epochs(self) -> int:
        """As given."""
        return self._owner.max_epochs

    @property
    def estimated_stepping_batches(self) -> int:
        """Steps of the whole training."""
        return self._owner._steps


class ElasticTrainer:
    """Trains LightningModules with automatic optimization and one optimizer.

    Attributes:
        metrics: The latest means of what the module has logged, by name.
        is_main: Whether this process is the one that logs and saves.
    """

    def __init__(
        self,
        workers: int,
        processes: tuple[int, int] | None = None,
        *,
        max_epochs: int = 1,
        max_steps: int = -1,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        precision: str = "32-true",
        loggers: Any = None,
        check_val_every_n_epoch: int = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        """Remembers how to train.

        Args:
            workers: N; a step has N batches of the train_dataloader's size, times
                `accumulate_grad_batches`.
            processes: as in `torchtide.elastic`, like `seed` and `threads`.
            max_epochs: times that the data are seen.
            max_steps: ends after so many steps, whatever `max_epochs` says; -1: it does not.
            accumulate_grad_batches: batches of each logical worker in one step.
            gradient_clip_val: clips the norm of the mean gradient.
            precision: "32-true" or "bf16-mixed".
            loggers: of Lightning; one process writes to them.
            check_val_every_n_epoch: epochs between two validations.
            checkpoint: file that the run is saved to after each epoch; `fit(ckpt_path=)` reads it.
            seed: of the data order and of the logical workers' random states.
            threads: intra-op threads of torch in every process.

        Raises:
            OptionError: a number or a word makes no sense.
        """
        self._decorate = elastic(workers, processes, seed=seed, threads=threads)
        if precision not in _PRECISIONS:
            raise OptionError(
                f"elastic jobs run on the CPU, in {' or '.join(_PRECISIONS)}",
                asked=f"precision={precision!r}",
            )
        if check_val_every_n_epoch < 1:
            raise OptionError(
                "1 or more is needed", asked=f"check_val_every_n_epoch={check_val_every_n_epoch}"
            )
        self.max_epochs, self.max_steps = max_epochs, max_steps
        self.metrics: dict[str, float] = {}
        self.is_main = True
        self._accumulate, self._clip = accumulate_grad_batches, gradient_clip_val
        self._every, self._checkpoint = check_val_every_n_epoch, checkpoint
        self._fabric = _Fabric(self, precision, loggers)
        self._run: Run | None = None
        self._per_epoch = self._steps = 1

    def fit(
        self,
        module: Any,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
    ) -> dict[str, float]:
        """Trains; returns `metrics` in the processes that are left at the end.

        Args:
            module: a LightningModule.
            train_dataloaders: one DataLoader; or the module or `datamodule` has a train_dataloader.
            val_dataloaders: one DataLoader or none.
            datamodule: a LightningDataModule.
            ckpt_path: file of an earlier run (`checkpoint`), of any number of processes.

        Raises:
            OptionError: something cannot be trained elastically; the sentence says what.
            Released: (a SystemExit) the job has become smaller and this process is to end.
        """
        if not isinstance(module, lightning.LightningModule):
            raise OptionError(f"{type(module).__name__} is no LightningModule", asked=_ASKED)
        if not module.automatic_optimization:
            raise OptionError(
                "the module steps its optimizers itself (automatic_optimization=False)",
                asked=_ASKED,
                advice="use tide.elastic directly: it is a loop of your own",
            )
        refuse_overridden(module, lightning.LightningModule, _NOT_CALLED)
        source = module if datamodule is None else datamodule
        if datamodule is not None:
            datamodule.prepare_data()
            datamodule.setup("fit")
        module.prepare_data()
        module.setup("fit")
        train = source.train_dataloader() if train_dataloaders is None else train_dataloaders
        valid = val_dataloaders
        if valid is None and _has(source, "val_dataloader"):
            valid = source.val_dataloader()
        if not isinstance(train, DataLoader):
            raise OptionError(
                f"{type(train).__name__} is no single DataLoader",
                asked=_ASKED,
                advice="each logical worker reads its own part of one",
            )
        if valid is not None and not isinstance(valid, DataLoader):
            raise OptionError("only one val_dataloader is understood", asked=_ASKED)
        try:
            return self._decorate(self._fit)(module, train, valid, ckpt_path)
        finally:
            self._run = None
            if datamodule is not None:
                datamodule.teardown("fit")
            module.teardown("fit")

    # --------------------------------------------------------------------------------------------

    def _fit(self, run: Run, module: Any, train: Any, valid: Any, path: Any) -> dict[str, float]:
        self._run, self._module, self._valid = run, module, valid
        self._began, self._first_of_epoch = False, True
        self._logged: dict[str, MeanLoss] = {}
        self._per_epoch, self._steps = self._lengths(run, train)
        module.fabric = self._fabric
        module.trainer = self._fabric
        optimizer, scheduler, period = _configured(module, self._per_epoch)
        _, _, loader = run.prepare(
            module,
            optimizer,
            train,
            steps=self._steps,
            accumulate=self._accumulate,
            max_norm=self._clip,
            scheduler=self._schedule(run, scheduler, period),
        )
        if path is not None:
            run.load(path)
        run.on_step(self._after_step)
        indices = [0] * run.workers
        for batch in run.iterations(loader):
            with undisturbed():
                self._begin(run)
            index = indices[run.worker_id]
            indices[run.worker_id] += 1
            run.backward(self._one_loss(batch, index))
            run.step()
        module.on_train_end()
        module.on_fit_end()
        run.on_step(None)
        module.eval()
        return self.metrics

    def _begin(self, run: Run) -> None:
        """Before a batch: hooks of the beginning, once, and of the epoch."""
        self.is_main = run.is_main
        if not self._began:
            self._began = True
            self._module.on_fit_start()
            self._module.on_train_start()
        if self._first_of_epoch:
            self._first_of_epoch = False
            self._module.on_train_epoch_start()
        self._module.train()

    def _one_loss(self, batch: Any, index: int) -> torch.Tensor:
        module = self._module
        batch = module.on_after_batch_transfer(module.on_before_batch_transfer(batch, 0), 0)
        module.on_train_batch_start(batch, index)
        with self._fabric.autocast():
            found = module.training_step(batch, index)
        loss = found["loss"] if isinstance(found, dict) else found
        if not isinstance(loss, torch.Tensor):
            raise OptionError(
                "training_step returned no loss; a batch cannot be left out",
                asked=_ASKED,
                advice="return a loss of 0 * output.sum()",
            )
        module.on_train_batch_end(found, batch, index)
        return loss

    def _after_step(self) -> None:
        """Validation and files; in every process, so that what they decide is the same."""
        run = self._run
        assert run is not None
        self._write(run)
        if run.step_index % self._per_epoch and run.step_index < self._steps:
            return
        run.take_up(0)
        self._begin(run)
        epoch = math.ceil(run.step_index / self._per_epoch)
        if self._valid is not None and epoch % self._every == 0:
            self._validate(run)
        self._module.on_train_epoch_end()
        self._write(run)
        self._first_of_epoch = True
        if self._checkpoint is not None and run.is_main:
            run.take_up(0)
            run.save(self._checkpoint)

    @torch.no_grad()
    def _validate(self, run: Run) -> None:
        module = self._module
        if not _has(module, "validation_step"):
            raise OptionError("there is a val_dataloader, but no validation_step", asked=_ASKED)
        module.eval()
        module.on_validation_start()
        module.on_validation_epoch_start()
        for index, batch in enumerate(self._valid):
            batch = module.on_after_batch_transfer(module.on_before_batch_transfer(batch, 0), 0)
            module.on_validation_batch_start(batch, index)
            with self._fabric.autocast():
                found = module.validation_step(batch, index)
            module.on_validation_batch_end(found, batch, index)
        module.on_validation_epoch_end()
        module.on_validation_end()
        module.train()
        self._write(run)

    def _take(self, metrics: Iterable[Any]) -> None:
        """What a module has logged in a batch."""
        run = self._run
        assert run is not None
        for name, value in dict(metrics).items():
            number = float(value.detach() if isinstance(value, torch.Tensor) else value)
            known = self._logged.setdefault(name, MeanLoss())
            known.add(run.step_index, run.generation, number)

    def _write(self, run: Run) -> None:
        means: dict[str, float] = {}
        for name, known in self._logged.items():
            known.commit()
            mean = known.take()
            if mean is not None:
                means[name] = mean
        self.metrics.update(means)
        if means and run.is_main:
            self._fabric.write(means, run.step_index)

    def _lengths(self, run: Run, train: DataLoader[Any]) -> tuple[int, int]:
        """Steps in an epoch, and in the whole training."""
        if isinstance(train.dataset, IterableDataset):
            if self.max_steps <= 0:
                raise OptionError(
                    "a stream has no length: nobody can say which step is the last",
                    asked=_ASKED,
                    advice="ElasticTrainer(max_steps=...)",
                )
            return self.max_steps, self.max_steps
        size = run.workers * (train.batch_size or 1) * self._accumulate
        count = len(train.dataset)  # type: ignore[arg-type]
        per_epoch = max(1, count // size if train.drop_last else math.ceil(count / size))
        return per_epoch, self.max_steps if self.max_steps > 0 else per_epoch * self.max_epochs

    def _schedule(self, run: Run, scheduler: Any, period: int) -> Travelling:
        def step() -> None:
            if scheduler is not None and (run.step_index + 1) % period == 0:
                scheduler.step()

        return Travelling(scheduler, step, dict, lambda told: None)


def _configured(module: Any, per_epoch: int) -> tuple[Any, Any, int]:
    """Optimizer, schedule and the steps between two steps of the schedule."""
    found = module.configure_optimizers()
    schedules: list[Any] = []
    if isinstance(found, dict):
        schedules = [found["lr_scheduler"]] if found.get("lr_scheduler") is not None else []
        found = found["optimizer"]
    elif isinstance(found, (list, tuple)) and len(found) == 2 and isinstance(found[0], list):
        found, schedules = found[0], list(found[1])
    optimizers = list(found) if isinstance(found, (list, tuple)) else [found]
    if len(optimizers) != 1 or not isinstance(optimizers[0], torch.optim.Optimizer):
        raise OptionError(
            f"configure_optimizers returned {len(optimizers)} optimizers"
            if len(optimizers) != 1
            else "configure_optimizers returned no optimizer",
            asked=_ASKED,
            advice="an elastic job has one optimizer",
        )
    if len(schedules) > 1:
        raise OptionError("an elastic job has one schedule", asked=_ASKED)
    if not schedules:
        return optimizers[0], None, 1
    given = schedules[0] if isinstance(schedules[0], dict) else {"scheduler": schedules[0]}
    if isinstance(given["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise OptionError(
            "ReduceLROnPlateau follows metrics; schedules here follow steps", asked=_ASKED
        )
    unit = {"epoch": per_epoch, "step": 1}.get(given.get("interval", "epoch"))
    if unit is None:
        raise OptionError('interval is "epoch" or "step"', asked="configure_optimizers")
    return optimizers[0], given["scheduler"], unit * int(given.get("frequency", 1))


def _has(instance: Any, name: str) -> bool:
    """Whether a module or data module defines that method itself."""
    for kind in type(instance).__mro__:
        if name in vars(kind):
            return not kind.__module__.startswith(("lightning.", "pytorch_lightning."))
    return False


__all__ = ["ElasticTrainer"]
