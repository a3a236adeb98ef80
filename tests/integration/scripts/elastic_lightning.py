"""A LightningModule with BatchNorm, dropout, validation and a schedule, trained elastically.

elastic_lightning.py OUT [--pipe FIFO] [--resume FILE] [--folder F]: with a pipe each sample waits a
little until somebody writes into it, so that a resize finds the training. With --resume it trains a
second time, from a checkpoint of the first.
"""

import argparse
import json
import os
import pathlib
import select

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchtide.integrations.lightning import ElasticTrainer

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--pipe")
parser.add_argument("--resume")
parser.add_argument("--folder", default="runs")
args = parser.parse_args()
GO = os.open(args.pipe, os.O_RDONLY | os.O_NONBLOCK) if args.pipe else -1


class Points(Dataset):
    def __init__(self, size, seed, paced=False):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 16, generator=generator)
        self.y = torch.randint(4, (size,), generator=generator)
        self.paced = paced

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        if self.paced and GO >= 0:
            select.select([GO], [], [], 0.25)
        return self.x[index] + 0.1 * torch.randn(16), self.y[index]


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4)
        )
        self.valid, self.rates, self.epochs = [], [], []

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self.body(x), y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_epoch_start(self):
        self.epochs.append(self.current_epoch)
        self.rates.append(self.optimizers_seen.param_groups[0]["lr"])

    def validation_step(self, batch, index):
        x, y = batch
        loss = nn.functional.cross_entropy(self.body(x), y)
        self.log("valid", loss)
        self.valid.append(float(loss))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        self.optimizers_seen = optimizer
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]


class Rows(lightning.fabric.loggers.logger.Logger):
    """Prints, as one process only may."""

    name, version = "rows", 0

    def log_hyperparams(self, *_, **__):
        pass

    def log_metrics(self, metrics, step=None):
        if "loss" in metrics:
            print(f"step {step} processes {self.trainer._run.processes} ", flush=True)


def train(resume=None):
    """The trainer afterwards, and what can be compared."""
    torch.manual_seed(7)
    rows, digests, module = Rows(), {}, Classifier()
    trainer = rows.trainer = ElasticTrainer(
        workers=3,
        max_epochs=8,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        loggers=rows,
        checkpoint=f"{args.folder}/run.pt",
    )
    after = trainer._after_step

    def noted():
        after()
        digests[trainer._run.step_index] = trainer._run.digest()
        if trainer._run.step_index == 20 and trainer._run.is_main and not resume:
            os.link(f"{args.folder}/run.pt", f"{args.folder}/run-20.pt")

    trainer._after_step = noted
    metrics = trainer.fit(
        module,
        DataLoader(Points(74, 1, paced=True), batch_size=3, shuffle=True, drop_last=True),
        DataLoader(Points(8, 2), batch_size=4),
        ckpt_path=resume,
    )
    return trainer, {
        "digests": digests,
        "valid": module.valid,
        "rates": module.rates,
        "epochs": module.epochs,
        "metrics": sorted(metrics),
    }


pathlib.Path(args.folder).mkdir(exist_ok=True)
trainer, found = train()
if args.resume:
    found["resumed"] = train(args.resume)[1]
if trainer.is_main:
    pathlib.Path(args.out).write_text(json.dumps(found))
