"""Train a wide denoising autoencoder on patches of photographs: a job whose memory is Adam's.

Plain PyTorch. Its 56 million parameters need 220 MB, their gradients as much, and Adam twice that.

    python examples/wide_adam.py --steps 20
"""

import argparse
import hashlib
import json
import resource
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

SIDE = 40  # pixels


class Patches(Dataset):
    """Every square patch of the photographs that ship with scikit-learn, as a flat vector."""

    def __init__(self):
        images = torch.stack([torch.tensor(image) for image in load_sample_images().images])
        self.images = images.permute(0, 3, 1, 2).float().div(255)
        self.rows, self.columns = (size - SIDE for size in self.images.shape[2:])

    def __len__(self):
        return len(self.images) * self.rows * self.columns

    def __getitem__(self, index):
        index, x = divmod(index, self.columns)
        image, y = divmod(index, self.rows)
        return self.images[image, :, y : y + SIDE, x : x + SIDE].flatten()


class Autoencoder(nn.Module):
    def __init__(self, size=3 * SIDE * SIDE, width=4096, code=2048):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, code))
        self.decoder = nn.Sequential(nn.Linear(code, width), nn.ReLU(), nn.Linear(width, size))

    def forward(self, x):
        return self.decoder(self.encoder(x))


def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    dataset = Patches()
    generator = torch.Generator().manual_seed(args.seed)
    picks = RandomSampler(dataset, True, args.steps * args.batch_size, generator=generator)
    loader = DataLoader(dataset, args.batch_size, sampler=picks, generator=generator)
    model = Autoencoder(width=args.width, code=args.width // 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.train()
    losses, times = [], [time.monotonic()]
    for step, patches in enumerate(loader, start=1):
        noisy = patches + 0.1 * torch.randn_like(patches)
        loss = F.mse_loss(model(noisy), patches)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # the gradients need not outlive the step
        losses.append(loss.item())
        times.append(time.monotonic())
        if step % 5 == 0 or step == args.steps:
            print(f"wide_adam step {step}/{args.steps} loss {losses[-1]:.5f}", flush=True)
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
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=4096, help="of the hidden layers")
    parser.add_argument("--threads", type=int, default=2, help="fixed, so that sums keep order")
    parser.add_argument("--out", help="write digests of the result to this JSON file")
    args = parser.parse_args()
    result = train(args)
    if args.out:
        save_digests(args, *result)


if __name__ == "__main__":
    main()
