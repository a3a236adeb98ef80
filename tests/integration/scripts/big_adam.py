"""A training script nobody changed: large Adam state, forked DataLoader workers, digests."""

import argparse
import pathlib

import digest
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=2048)
parser.add_argument("--depth", type=int, default=3)
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--out", type=pathlib.Path)
arguments = parser.parse_args()

torch.set_num_threads(1)
torch.manual_seed(0)
width = arguments.width
count = arguments.batch * arguments.steps
generator = torch.Generator().manual_seed(1)
data = torch.utils.data.TensorDataset(
    torch.randn(count, width, generator=generator), torch.randint(10, (count,), generator=generator)
)
loader = torch.utils.data.DataLoader(
    data, batch_size=arguments.batch, num_workers=arguments.workers
)
# The workers start while the model is built, and so do not keep copies of its first weights.
batches = iter(loader)
layers = [layer for _ in range(arguments.depth) for layer in (nn.Linear(width, width), nn.ReLU())]
model = nn.Sequential(*layers, nn.Linear(width, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
losses = []
for step, (inputs, targets) in enumerate(batches):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    print(f"step {step} loss {loss.item():.6f}", flush=True)
if arguments.out:
    digest.write(arguments.out, model, optimizer, losses)
