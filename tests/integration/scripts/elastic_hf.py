"""A small GPT-2 from its configuration, with dropout, trained by `ElasticTrainer`.

elastic_hf.py OUT [--pipe FIFO] [--resume FOLDER] [--folder F] [--patience N]: with a pipe each
sample waits a little until somebody writes into it, so that a resize finds the training. With
--resume it trains a second time, from a checkpoint of the first.
"""

import argparse
import json
import os
import pathlib
import select

import torch
from torchtide.integrations.transformers import ElasticTrainer
from transformers import (
    EarlyStoppingCallback,
    GPT2Config,
    GPT2LMHeadModel,
    TrainerCallback,
    TrainingArguments,
)

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--pipe")
parser.add_argument("--resume")
parser.add_argument("--folder", default="runs")
parser.add_argument("--patience", type=int, default=8)
args = parser.parse_args()
GO = os.open(args.pipe, os.O_RDONLY | os.O_NONBLOCK) if args.pipe else -1
SAMPLES = 74  # 18 a step: the tail leaves some logical workers without


class Words(torch.utils.data.Dataset):
    def __init__(self, size, seed, paced=False):
        self.rows = torch.randint(64, (size, 12), generator=torch.Generator().manual_seed(seed))
        self.paced = paced

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if self.paced and GO >= 0:
            select.select([GO], [], [], 0.25)
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Steps(TrainerCallback):
    """Leaves a digest of each step; draws numbers, which must not matter."""

    def __init__(self):
        self.digests, self.begun, self.ended = {}, 0, 0

    def on_step_begin(self, arguments, state, control, **_):
        self.begun += 1
        torch.rand(3)

    def on_step_end(self, arguments, state, control, **_):
        self.ended += 1
        run = self.trainer._run
        self.digests[state.global_step] = run.digest()
        if state.is_world_process_zero:
            print(f"step {state.global_step} processes {run.processes} ", flush=True)


config = GPT2Config(
    bos_token_id=0, eos_token_id=0, vocab_size=64, n_positions=12, n_embd=32, n_layer=2, n_head=2
)
arguments = TrainingArguments(
    output_dir=args.folder,
    per_device_train_batch_size=3,
    gradient_accumulation_steps=2,
    num_train_epochs=8,
    warmup_steps=3,
    learning_rate=1e-2,
    eval_strategy="steps",
    eval_steps=4,
    save_strategy="steps",
    save_steps=7,
    save_total_limit=3,
    logging_steps=2,
    metric_for_best_model="loss",
    report_to=[],
    disable_tqdm=True,
    use_cpu=True,
    bf16=True,
)


def train(resume=None):
    """The trainer afterwards, and what can be compared."""
    torch.manual_seed(7)
    steps = Steps()
    # Counts evaluations: all processes must count the same, joiners too.
    patience = EarlyStoppingCallback(args.patience, early_stopping_threshold=10.0)
    trainer = steps.trainer = ElasticTrainer(
        GPT2LMHeadModel(config),
        arguments,
        train_dataset=Words(SAMPLES, 1, paced=True),
        eval_dataset=Words(8, 2),
        callbacks=[steps, patience],
        workers=3,
    )
    output = trainer.train(resume_from_checkpoint=resume)
    assert steps.begun == steps.ended, (steps.begun, steps.ended)
    state = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    history = trainer.state.log_history
    return trainer, {
        "steps": output.global_step,
        "digests": steps.digests,
        "finite": bool(state.isfinite().all()),
        "logged": [entry["step"] for entry in history if "loss" in entry],
        "evaluated": [entry["eval_loss"] for entry in history if "eval_loss" in entry],
    }


trainer, found = train()
trainer.save_model(f"{args.folder}/last")
if args.resume:
    found["resumed"] = train(args.resume)[1]
if trainer.is_world_process_zero():
    pathlib.Path(args.out).write_text(json.dumps(found))
