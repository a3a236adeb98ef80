"""The smallest script that shares a machine by itself: three lines of torchtide around a loop.

Start it several times at once; the copies take turns, an iteration each.

    python examples/shared_loop.py & python examples/shared_loop.py --seed 2 & tide top
"""

import argparse
import hashlib
import json
import resource
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import torchtide as tide
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset


@tide.job(priority="normal")
def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    digits = load_digits()
    images = torch.tensor(digits.images).float().div(16).flatten(1)
    dataset = TensorDataset(images, torch.tensor(digits.target).long())
    generator = torch.Generator().manual_seed(args.seed)
    picks = RandomSampler(dataset, True, args.steps * args.batch_size, generator=generator)
    loader = DataLoader(dataset, args.batch_size, sampler=picks, generator=generator)
    model = nn.Sequential(
        nn.Linear(64, 1024),
        nn.GELU(),
        nn.Dropout(0.1),
        nn.Linear(1024, 1024),
        nn.GELU(),
        nn.Linear(1024, 10),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses, times = [], [time.monotonic()]
    for step, (pictures, labels) in enumerate(tide.iterations(loader), start=1):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pictures), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        times.append(time.monotonic())
        if step % 20 == 0 or step == args.steps:
            print(f"shared_loop step {step}/{args.steps} loss {losses[-1]:.4f}", flush=True)
    return model, optimizer, losses, times


def save_digests(args, model, optimizer, losses, times):
    """Writes what two runs must agree on: each tensor's sha256 and each loss, bit for bit."""
    tensors = {f"parameter {name}": t for name, t in model.named_parameters()}
    tensors |= {f"buffer {name}": t for name, t in model.named_buffers()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer {index} {k}": t for k, t in state.items() if torch.is_tensor(t)}
    size = sum(tensor.nbytes for tensor in tensors.values())
    tensors["random state"] = torch.get_rng_state()
    flat = {name: t.detach().reshape(-1).numpy() for name, t in sorted(tensors.items())}
    record = {
        "digests": {name: hashlib.sha256(array).hexdigest() for name, array in flat.items()},
        "losses": [loss.hex() for loss in losses],
        "times": times,  # monotonic: the start of the first iteration, then the end of each
        "state_bytes": size,
        "parameter_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        "max_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    Path(args.out).write_text(json.dumps(record))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2, help="fixed, so that sums keep order")
    parser.add_argument("--out", help="write digests of the result to this JSON file")
    args = parser.parse_args()
    result = train(args)
    if args.out:
        save_digests(args, *result)


if __name__ == "__main__":
    main()
