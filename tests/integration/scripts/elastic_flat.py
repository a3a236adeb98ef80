"""Trains an elastic job of argv[1] logical workers in one process; prints what memory it took."""

import json
import sys

import torch
import torchtide as tide
from torchtide import _core

WORKERS = int(sys.argv[1])
BATCH = 2048  # its activations take 16 times as much as the model
STEPS = 6


class Drawn(torch.utils.data.Dataset):
    """Samples that are made when they are asked for, so that more workers do not mean more data."""

    def __len__(self):
        return BATCH * WORKERS

    def __getitem__(self, index):
        return torch.full((64,), index / len(self))


@tide.elastic(workers=WORKERS, processes=(1, 1))
def train(run):
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 64)
    )
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer, loader = run.prepare(
        model, optimizer, Drawn(), batch_size=BATCH, epochs=STEPS, steps=STEPS
    )
    for batch in run.iterations(loader):
        run.backward(model(batch).square().mean())
        run.step()


train()
print(json.dumps(_core.report()))
