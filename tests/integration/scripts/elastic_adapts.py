"""An elastic job whose policy wants two processes, and one again; says what it came to.

elastic_adapts.py [STEPS]: with STEPS it trains so many and asks no policy.
"""

import json
import sys

import torch
import torchtide as tide
from torch import nn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 0
GROWS, STAYS = 3, 8


class Wish:
    """One process; from step 3 on a second one, until both have trained eight steps together."""

    def __init__(self):
        self.small, self.grown = False, None
        self.told = []

    def __call__(self, report):
        self.told.append(report)
        self.small = self.small or report.processes == 1
        if report.processes == 2 and self.small and self.grown is None:
            self.grown = report.step
        enough = self.grown is not None and report.step >= self.grown + STAYS
        return 1 if enough or report.step < GROWS or not self.small else 2


WISH = Wish()


@tide.elastic(workers=4, adapt=None if STEPS else WISH)
def train(run):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(30, 50), nn.ReLU(), nn.Dropout(0.1), nn.Linear(50, 3))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    data = torch.utils.data.TensorDataset(
        torch.randn(64, 30, generator=torch.Generator().manual_seed(3))
    )
    _, _, loader = run.prepare(
        model, optimizer, data, batch_size=4, steps=STEPS or 1_000_000, noise_scale=True
    )

    def look():
        place = run._place()
        back = place["generation"] >= 2 and place["processes"] == 1
        if not STEPS and back and run.step_index >= place["first_step"] + STAYS:
            run.stop()

    run.on_step(look)
    for (x,) in run.iterations(loader):
        run.backward(model(x).square().mean())
        run.step()
    report = run.report()
    said = {
        "steps": run.step_index,
        "digest": run.digest(),
        "noise": report.noise_scale,
        "seconds": sorted(report.seconds),
        "bounds": report.bounds,
        "sizes": sorted({told.processes for told in WISH.told}),
    }
    print(json.dumps(said), flush=True)


train()
