"""Train a small convolutional net on scikit-learn's digits as eight logical workers.

The result is bit for bit the same in one process and in any number of them, however often that
number changes:

    python examples/elastic_digits.py --out one.json
    tide run --processes 1:4 -- python examples/elastic_digits.py --out four.json
    tide resize elastic_digits 2    # in another terminal, while it trains
"""

import argparse
import json
from pathlib import Path

import torch
import torchtide as tide
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset


class Digits(Dataset):
    """8 x 8 grey images, shifted by up to one pixel at random."""

    def __init__(self):
        digits = load_digits()
        self.images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
        self.labels = torch.tensor(digits.target)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        down, right = torch.randint(-1, 2, (2,)).tolist()
        return self.images[index].roll((down, right), (1, 2)), self.labels[index]


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32 * 16, 10),
    )


@tide.elastic(workers=8, processes=(1, 8))
def train(run, args):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model, optimizer, loader = run.prepare(
        model, optimizer, Digits(), batch_size=8, epochs=args.epochs, max_norm=1.0
    )
    for batch in run.iterations(loader):
        loss = nn.functional.cross_entropy(model(batch.x), batch.y)
        run.backward(loss)
        if run.step() and run.is_main:
            print(f"step {run.step_index} processes {run.processes} loss {loss:.4f}", flush=True)
            digest = run.digest() if run.step_index == len(loader) else ""
    if run.is_main and args.out:
        Path(args.out).write_text(json.dumps({"steps": run.step_index, "digest": digest}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", help="write the digest of the result to this JSON file")
    train(parser.parse_args())
