"""`ElasticTrainer`: Hugging Face's Trainer as N logical workers on any number of processes.

    trainer = ElasticTrainer(model, arguments, train_dataset=data, workers=8)
    trainer.train()

The loop is torchtide's (`torchtide.elastic`); loss, data, optimizer, schedule, evaluation,
callbacks and files are those of `transformers.Trainer`. See docs/guides/frameworks.md.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from torchtide.elastic import elastic
from torchtide.elastic.run import Run
from torchtide.errors import OptionError
from torchtide.integrations.common import (
    MeanLoss,
    Travelling,
    refuse_overridden,
    refuse_set,
    require,
    undisturbed,
)

transformers: Any = require("transformers", "transformers")
_utils: Any = require("transformers.trainer_utils", "transformers")
_callback: Any = require("transformers.trainer_callback", "transformers")
require("accelerate", "transformers")

#: The run's own state in a checkpoint folder, beside what Trainer writes there.
STATE_FILE: Final = "elastic.pt"
_TRAINER_STATE: Final = "trainer_state.json"
_ASKED: Final = "ElasticTrainer"


class ElasticTrainer(transformers.Trainer):  # type: ignore[misc]
    """A Trainer whose `train` gives the same bits in any number of processes.

    `per_device_train_batch_size` and `gradient_accumulation_steps` are those of one logical worker,
    so a step has `workers` times their product of samples. Everything else is as in Trainer; what
    cannot be is refused with the reason.
    """

    _run: Run | None = None
    _is_main = True  # before and outside of `train` each process is by itself
    _began = False
    # Of Trainer itself:
    model: Any
    optimizer: Any
    lr_scheduler: Any
    state: Any
    control: Any

    def __init__(
        self,
        *args: Any,
        workers: int,
        processes: tuple[int, int] | None = None,
        threads: int = 1,
        **options: Any,
    ) -> None:
        """As Trainer's; `workers`, `processes` and `threads` as `torchtide.elastic` has them.

        Raises:
            OptionError: an option does not go with elastic training.
        """
        given = options.get("args", args[1] if len(args) > 1 else None)
        if given is not None:  # before Trainer acts on them
            _check(given)
        super().__init__(*args, **options)
        _check(self.args)
        _check_class(self)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._decorate = elastic(workers, processes, seed=seed, threads=threads)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Trains; returns Trainer's TrainOutput in the processes that are left at the end.

        Args:
            resume_from_checkpoint: a folder that an ElasticTrainer has written, or True for the
                last one in `output_dir`. The number of processes may be another.
            trial: None; there is no hyperparameter search.
            ignore_keys_for_eval: as in Trainer.

        Raises:
            OptionError: something cannot be trained elastically.
            Released: (a SystemExit) the job has become smaller and this process is to end.
        """
        if trial is not None:
            raise OptionError("a search of hyperparameters trains many models", asked=_ASKED)
        if self.model_init is not None:
            transformers.set_seed(self.args.seed)
            self.model = self.model_wrapped = self.call_model_init()
            self.optimizer = self.lr_scheduler = None
        folder = self._folder(resume_from_checkpoint)
        return self._decorate(self._train)(folder, ignore_keys_for_eval)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in Trainer, by one process."""
        if self._is_main:
            super().save_model(output_dir, _internal_call)

    def is_world_process_zero(self) -> bool:
        """Whether this process is the one that prints and saves."""
        return self._is_main

    def is_local_process_zero(self) -> bool:
        """As `is_world_process_zero`."""
        return self._is_main

    # --------------------------------------------------------------------------------------------

    def _train(self, run: Run, folder: Path | None, ignored: list[str] | None) -> Any:
        data = self._data()
        per_epoch, steps = self._lengths(run, data)
        self._run, self._per_epoch, self._ignored = run, per_epoch, ignored
        self._began, self._loss = False, MeanLoss()
        self._losses: list[float] = []
        self._begin_state(steps)
        if self._created_lr_scheduler:
            self.lr_scheduler = None
        self.create_optimizer_and_scheduler(num_training_steps=steps)
        _check_schedule(self.lr_scheduler)
        self._take_memory_down()
        _, _, loader = run.prepare(
            self.model,
            self.optimizer,
            data,
            steps=steps,
            accumulate=self.args.gradient_accumulation_steps,
            max_norm=self.args.max_grad_norm or None,
            scheduler=self._travelling(),
        )
        if folder is not None:
            run.load(folder / STATE_FILE)
            history = _callback.TrainerState.load_from_json(str(folder / _TRAINER_STATE))
            self.state.log_history = history.log_history
        for name in ("model", "optimizer", "lr_scheduler"):
            setattr(self.callback_handler, name, getattr(self, name))
        self.callback_handler.train_dataloader = data
        self.is_in_train, first, start = True, run.step_index, time.time()
        run.on_step(self._after_step)
        for batch in run.iterations(loader):
            if not self._began:
                with undisturbed():
                    self._begin()
            run.backward(self._one_loss(run, batch))
            run.step()
        return self._end(run, first, start)

    def _one_loss(self, run: Run, batch: Any) -> torch.Tensor:
        self.model.train()
        bf16 = self.args.bf16
        cast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
        with cast, self.compute_loss_context_manager():
            loss: torch.Tensor = self.compute_loss(self.model, self._prepare_inputs(batch))
        value = float(loss.detach())
        if math.isfinite(value) or not self.args.logging_nan_inf_filter:
            self._loss.add(run.step_index, run.generation, value)
        return loss

    def _after_step(self) -> None:
        """Callbacks, evaluation and files; in every process, so that all decide the same."""
        run = self._run
        assert run is not None
        self._loss.commit()
        self._look(run)
        if not self._began:
            self._begin()
        elif run.is_main and not self._is_main:
            self._begin()  # the one that reported has gone; progress bars and loggers begin here
        self._mark("on_step_end")
        self._log_evaluate_save(run)
        if run.step_index % self._per_epoch == 0:
            self._mark("on_epoch_end")
            self._log_evaluate_save(run)
            if run.step_index < self.state.max_steps and not self.control.should_training_stop:
                self._mark("on_epoch_begin")
        if self.control.should_epoch_stop and not self.control.should_training_stop:
            raise OptionError(
                "a callback ends an epoch early, but steps belong to epochs by their number",
                asked=_ASKED,
                advice="let it set control.should_training_stop",
            )
        if self.control.should_training_stop:
            run.stop()
        elif run.step_index < self.state.max_steps:
            self._mark("on_step_begin")

    def _begin(self) -> None:
        """The first time that this process knows who reports."""
        run = self._run
        assert run is not None
        self._look(run)
        self._is_main = self.state.is_world_process_zero = run.is_main
        self.state.is_local_process_zero = run.is_main
        self._mark("on_train_begin")
        if not self._began:
            self._began = True
            self._mark("on_epoch_begin")
            self._mark("on_step_begin")

    def _look(self, run: Run) -> None:
        self.state.global_step = run.step_index
        self.state.epoch = run.step_index / self._per_epoch

    def _mark(self, event: str) -> None:
        call = getattr(self.callback_handler, event)
        self.control = call(self.args, self.state, self.control)

    def _log_evaluate_save(self, run: Run) -> None:
        if self.control.should_log:
            self.control.should_log = False
            loss = self._loss.take()
            if loss is not None:
                self._losses.append(loss)
            if self._is_main and loss is not None:
                self.log({"loss": loss, "learning_rate": self._get_learning_rate()})
        if self.control.should_evaluate:
            self.control.should_evaluate = False
            run.take_up(0)
            metrics = self.evaluate(ignore_keys=self._ignored)
            best = self._determine_best_metric(metrics, None)
            if self.args.save_strategy == _utils.SaveStrategy.BEST:
                self.control.should_save = best
        if self.control.should_save:
            self.control.should_save = False
            if self._is_main:
                self._save_whole(run)
            self._mark("on_save")

    def _save_whole(self, run: Run) -> None:
        """A checkpoint folder, put in place by a rename."""
        top = Path(self.args.output_dir)
        target = top / f"{_utils.PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        draft = top / f".{target.name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        run.take_up(0)
        self.save_model(str(draft), _internal_call=True)
        if not self.args.save_only_model:
            run.save(draft / STATE_FILE)
        self.state.save_to_json(str(draft / _TRAINER_STATE))
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(target)
        _utils.rotate_checkpoints(
            output_dir=str(top),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def _end(self, run: Run, first: int, start: float) -> Any:
        rest = self._loss.take()
        losses = self._losses if rest is None else [*self._losses, rest]
        done = run.step_index - first
        mean = sum(losses) / len(losses) if losses else 0.0
        samples = done * run.workers * self._samples_each
        metrics = _utils.speed_metrics("train", start, num_samples=samples, num_steps=done)
        metrics["train_loss"] = mean
        if self._is_main:
            self.log(dict(metrics))
        self._mark("on_train_end")
        self.is_in_train = False
        run.on_step(None)
        self._run = None
        return _utils.TrainOutput(self.state.global_step, mean, metrics)

    # --------------------------------------------------------------------------------------------
    # Before the loop

    def _data(self) -> DataLoader[Any]:
        """What Trainer would read, without its sampler: who reads which samples is ours to say."""
        if self.args.train_sampling_strategy not in ("random", "sequential"):
            raise OptionError(
                f"train_sampling_strategy={self.args.train_sampling_strategy!r} chooses samples by "
                "itself; each logical worker must have its own",
                asked=_ASKED,
                advice='"random" or "sequential"',
            )
        found: Any = self.get_train_dataloader()
        stream = isinstance(found.dataset, IterableDataset)
        self._samples_each = (
            self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        )
        own: dict[str, Any] = {}
        if not stream:
            own = {
                "shuffle": not isinstance(found.sampler, SequentialSampler),
                "drop_last": self.args.dataloader_drop_last,
            }
        return DataLoader(
            found.dataset,
            batch_size=self.args.per_device_train_batch_size,
            collate_fn=found.collate_fn,
            num_workers=self.args.dataloader_num_workers,
            **own,
        )

    def _lengths(self, run: Run, data: DataLoader[Any]) -> tuple[int, int]:
        """Steps in an epoch, and in the whole training."""
        if isinstance(data.dataset, IterableDataset):
            if self.args.max_steps <= 0:
                raise OptionError(
                    "a stream has no length: nobody can say which step is the last",
                    asked=_ASKED,
                    advice="TrainingArguments(max_steps=...)",
                )
            return self.args.max_steps, self.args.max_steps
        size = run.workers * self._samples_each
        count = len(data.dataset)  # type: ignore[arg-type]
        per_epoch = count // size if self.args.dataloader_drop_last else math.ceil(count / size)
        per_epoch = max(1, per_epoch)  # what is too little is said by `prepare`
        if self.args.max_steps > 0:
            return per_epoch, self.args.max_steps
        return per_epoch, math.ceil(self.args.num_train_epochs * per_epoch)

    def _begin_state(self, steps: int) -> None:
        stateful = [c for c in self.callback_handler.callbacks if _exports(c)]
        self.state = _callback.TrainerState(stateful_callbacks=[*stateful, self.control])
        self.state.train_batch_size = self._train_batch_size
        self.state.max_steps = steps
        self.state.num_train_epochs = math.ceil(steps / self._per_epoch)
        self.state.compute_steps(self.args, steps)
        self.control = _callback.TrainerControl()

    def _take_memory_down(self) -> None:
        if self.args.activation_checkpointing:
            options = dict(self.args.activation_checkpointing_kwargs or {})
            self.model.activation_checkpointing_enable(
                every_n_layers=options.pop("every_n_layers", 1),
                offload=options.pop("offload", False),
                activation_checkpointing_kwargs=options or None,
            )

    def _travelling(self) -> Travelling:
        """The schedule, with what decides when training stops."""
        names = ("best_metric", "best_global_step", "best_model_checkpoint")

        def save() -> dict[str, Any]:
            told = {name: _plain(getattr(self.state, name)) for name in names[:2]}
            stateful = [c for c in self.callback_handler.callbacks if _exports(c)]
            return told | {"callbacks": [_plain(c.state()["attributes"]) for c in stateful]}

        def load(told: dict[str, Any]) -> None:
            for name in names[:2]:
                setattr(self.state, name, told[name])
            stateful = [c for c in self.callback_handler.callbacks if _exports(c)]
            for callback, attributes in zip(stateful, told["callbacks"], strict=True):
                for name, value in attributes.items():
                    setattr(callback, name, value)

        return Travelling(self.lr_scheduler, self.lr_scheduler.step, save, load)

    def _folder(self, asked: str | bool | None) -> Path | None:
        if not asked:
            return None
        found = _utils.get_last_checkpoint(self.args.output_dir) if asked is True else asked
        if found is None:
            raise OptionError(
                f"there is no checkpoint in {self.args.output_dir}",
                asked="train(resume_from_checkpoint=True)",
            )
        if not (Path(found) / STATE_FILE).exists():
            raise OptionError(
                f"{found} has no {STATE_FILE}: no ElasticTrainer has written it, or with "
                "save_only_model",
                asked="train(resume_from_checkpoint=...)",
                advice="begin with its weights: from_pretrained(folder)",
            )
        return Path(found)


def _exports(callback: Any) -> bool:
    return isinstance(callback, _callback.ExportableState)


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.item() if hasattr(value, "item") else value


def _check(args: Any) -> None:
    """Raises OptionError for what Trainer's arguments ask for and an elastic job cannot give."""
    ours = "the processes are torchtide's: tide run --processes 1:4 -- python train.py"
    parallel = args.parallel_mode == transformers.training_args.ParallelMode.DISTRIBUTED
    refuse_set(
        _ASKED,
        {
            "deepspeed": (bool(args.deepspeed), ours),
            "fsdp": (bool(args.fsdp), "the model is whole in each process"),
            "a launcher of ranks with DDP": (parallel, ours),
            "parallelism_config": (args.parallelism_config is not None, ours),
            "fp16": (args.fp16, "elastic jobs run on the CPU; bf16=True does"),
            "torch_compile": (args.torch_compile, "it would not be compiled; do it yourself"),
            "auto_find_batch_size": (args.auto_find_batch_size, "the batch defines the result"),
            "neftune_noise_alpha": (args.neftune_noise_alpha is not None, "it is not applied"),
            "use_liger_kernel": (args.use_liger_kernel, "its kernels are for GPUs"),
            "load_best_model_at_end": (
                args.load_best_model_at_end,
                "only one process knows the files; state.best_model_checkpoint says which it is",
            ),
            "push_to_hub": (args.push_to_hub, "push when the training is over"),
            "enable_jit_checkpoint": (args.enable_jit_checkpoint, "each process would write"),
            "include_num_input_tokens_seen": (
                args.include_num_input_tokens_seen not in ("no", False),
                "each process sees its own part",
            ),
            "eval_on_start": (args.eval_on_start, "call evaluate() before train()"),
            "debug": (bool(args.debug), "it is not applied"),
        },
    )
    if args.device.type != "cpu":
        raise OptionError(
            f"the model is on {args.device}; elastic jobs run on the CPU",
            asked=_ASKED,
            advice="TrainingArguments(use_cpu=True)",
        )


def _check_class(trainer: Any) -> None:
    refuse_overridden(
        trainer,
        transformers.Trainer,
        {
            "training_step": "override compute_loss",
            "get_batch_samples": "give the dataset what a batch needs",
            "_inner_training_loop": "",
            "_save_checkpoint": "override save_model",
        },
    )
    if not isinstance(trainer.model, torch.nn.Module) and trainer.model_init is None:
        raise OptionError("there is no model", asked=_ASKED)


def _check_schedule(scheduler: Any) -> None:
    names = {kind.__name__ for kind in type(scheduler).__mro__}
    if names & {"ReduceLROnPlateau", "GreedyLR"}:
        raise OptionError(
            f"{type(scheduler).__name__} follows metrics; schedules here follow steps",
            asked=_ASKED,
            advice='lr_scheduler_type="cosine", for one',
        )


__all__ = ["STATE_FILE", "ElasticTrainer"]
