"""The job of `tide demo resize`: a small net as four logical workers, on made-up numbers."""

from __future__ import annotations

import argparse
import os
import select
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

import torchtide as tide

#: A pipe that slows the job down until somebody writes into it, so that there is time to look.
PACE = os.environ.get("TIDE_DEMO_PACE", "")
#: Of each worker of the first steps, and of the later ones: a process takes seconds to start.
QUICK_S, SLOW_S = 0.2, 1.0
QUICK_STEPS = 6


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random walks, each from its number and the draws of its worker."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        walk = torch.randn(64).cumsum(0) + index % 7
        return walk[:48], walk[48:]


def pace(pipe: int, late: bool) -> None:
    """Waits a little, or until the word is there; nothing is read, so once there it stays."""
    if pipe >= 0:
        select.select([pipe], [], [], SLOW_S if late else QUICK_S)


@tide.elastic(workers=4, processes=(1, 4))
def train(run: Any, steps: int) -> None:
    """Trains and prints a line a step, and the digest of everything at the end."""
    model = nn.Sequential(nn.Linear(48, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = run.prepare(
        model, optimizer, Numbers(4 * 8 * steps), batch_size=8, epochs=1
    )
    digest = ""
    pipe = os.open(PACE, os.O_RDONLY | os.O_NONBLOCK) if PACE else -1
    for batch in run.iterations(loader):
        pace(pipe, late=run.step_index > QUICK_STEPS)
        loss = nn.functional.mse_loss(model(batch.x), batch.y)
        run.backward(loss)
        if run.step() and run.is_main:
            print(f"step {run.step_index} processes {run.processes} loss {loss:.4f}", flush=True)
            digest = run.digest() if run.step_index == len(loader) else ""
    if run.is_main:
        print(f"digest {digest}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    train(parser.parse_args().steps)
