"""A small elastic job for torchrun; goes on from its checkpoint and writes its last digest.

    elastic_torchrun.py FOLDER [--kill STEP] [--hold]

With --kill, rank 1 of the first start kills itself in that step. With --hold, samples come slowly
until somebody writes into FOLDER/go.
"""

import argparse
import os
import pathlib
import select
import signal

import torch
import torchtide as tide
from torch import nn

PER_SAMPLE_S = 0.004
STEPS = int(os.environ.get("STEPS", "24"))


class Data(torch.utils.data.Dataset):
    """Random points, slow ones when there is a pipe."""

    def __init__(self, pipe):
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(200, 40, generator=generator)
        self.y = torch.randint(0, 10, (200,), generator=generator)
        self.go = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if pipe else -1

    def __len__(self):
        return 200

    def __getitem__(self, index):
        if self.go >= 0:
            select.select([self.go], [], [], PER_SAMPLE_S)  # nothing is read: once there, it stays
        return self.x[index] + 0.1 * torch.randn(40), self.y[index]


@tide.elastic(workers=6)
def train(run, args):
    folder = pathlib.Path(args.folder)
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # each process begins elsewhere
    model = nn.Sequential(
        nn.Linear(40, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    data = Data(folder / "go" if args.hold else None)
    model, optimizer, loader = run.prepare(
        model, optimizer, data, batch_size=5, steps=STEPS, max_norm=1.0
    )
    checkpoint = folder / "run.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    first = run.step_index
    for batch in run.iterations(loader):
        doomed = args.kill and not first and run.step_index == args.kill
        if doomed and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        run.backward(nn.functional.cross_entropy(model(batch.x), batch.y))
        if run.step():
            digest = run.digest()
            (folder / f"digest-{os.environ.get('RANK', 'alone')}").write_text(digest)
            if run.is_main and run.step_index % 3 == 0 and STEPS < 100:
                run.save(checkpoint)
            if run.is_main:
                print(f"step {run.step_index} of {run.processes} from {first}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--kill", type=int, default=0)
    parser.add_argument("--hold", action="store_true")
    train(parser.parse_args())
