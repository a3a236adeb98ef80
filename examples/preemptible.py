"""Train a small net that may be stopped after any step; started again, it goes on.

    tide run --on-signal TERM=save-and-end -- python examples/preemptible.py --checkpoint run.pt

The result is bit for bit that of a run that was never stopped. The recipes in deploy/slurm and
deploy/kubernetes are tested with it.
"""

import argparse
from pathlib import Path

import torch
import torchtide as tide
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset):
    """Samples that follow from their number alone; `first` are left out, they are trained."""

    def __init__(self, first, count):
        self.first = first
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(self.first + index)
        x = torch.randn(32, generator=generator)
        return x, x.cumsum(0)


def train(args):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(32, 1024), nn.ReLU(), nn.Linear(1024, 32))
    optimizer = torch.optim.Adam(model.parameters())
    done = 0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
        print(f"goes on after step {done}", flush=True)

    @tide.on_save
    def save():
        fresh = args.checkpoint.with_suffix(".new")
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
        torch.save(state, fresh)
        fresh.replace(args.checkpoint)  # whole, or not at all

    batch = 16
    samples = Numbers(done * batch, (args.steps - done) * batch)
    for x, y in DataLoader(samples, batch_size=batch, num_workers=args.workers):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done += 1
        if done % 10 == 0:
            print(f"step {done} loss {loss:.4f}", flush=True)
    save()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1, help="processes that read ahead")
    parser.add_argument("--checkpoint", type=Path, default=Path("preemptible.pt"))
    train(parser.parse_args())
