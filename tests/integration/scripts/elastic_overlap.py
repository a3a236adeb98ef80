"""A small elastic job of processes that torch.distributed connects; says what it came to.

    elastic_overlap.py RANK SIZE STORE TOUCH

TOUCH is a step in which the body scales logical worker 4's gradients between backward and step, in
a way that torch does not count as a change of a tensor; -1: never. With SIZE 1 nobody is connected.
Prints digest, bodies that ran, and gradients that left while backward still ran.
"""

import json
import sys

import torch
import torch.distributed as dist
from torch import nn
from torchtide.elastic.run import Run

WORKERS, STEPS = 5, 6


class Model(nn.Module):
    """With a layer that most steps do not use, one in double, a tied weight and a large one."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(40, 300), nn.Linear(300, 300)
        self.rare = nn.Linear(300, 300)
        self.norm = nn.BatchNorm1d(300)
        self.wide = nn.Linear(300, 10).double()

    def forward(self, x, rare):
        x = nn.functional.relu(self.second(self.norm(self.first(x))))
        x = self.second(x) if not rare else self.rare(x)
        return self.wide(nn.functional.dropout(x, 0.2, self.training).double())


def main():
    rank, size, store, touch = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    with Run(WORKERS, (1, WORKERS)) as run:
        torch.manual_seed(5)
        model = Model()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        points = torch.randn(200, 40, generator=torch.Generator().manual_seed(3))
        data = torch.utils.data.TensorDataset(points)
        _, _, loader = run.prepare(
            model,
            optimizer,
            data,
            batch_size=4,
            steps=STEPS,
            accumulate=2,
            max_norm=1.0,
            noise_scale=True,
        )
        bodies = early = 0
        reduction = getattr(run._exchange, "_reduction", None)
        for (x,) in run.iterations(loader):
            bodies += 1
            run.backward(model(x, run.step_index % 3 == 2 and run.worker_id == 1).square().mean())
            reduction = getattr(run._exchange, "_reduction", None)
            if reduction is not None and reduction.busy:
                early += sum(left == 0 for left in reduction._left)
            if run.step_index == touch and run.worker_id == 4 and run._micro_left == 1:
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.data.mul_(0.5)
            run.step()
        digest = run.digest()
        noise = run.report().noise_scale
        pieces = 0 if reduction is None else len(reduction._left)
    said = {"digest": digest, "bodies": bodies, "early": early, "pieces": pieces, "noise": noise}
    print(json.dumps(said))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
