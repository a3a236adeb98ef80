"""Train an image classifier on real pictures: handwritten digits and patches of two photographs.

Plain PyTorch. The data ship with scikit-learn; two forked DataLoader workers cut and shift them.

    python examples/digits_cnn.py --steps 20
"""

import argparse
import hashlib
import json
import resource
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_images
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

SIDE = 32  # pixels; classes 0-9 are digits, 10 is the temple of china.jpg, 11 is flower.jpg


class Pictures(Dataset):
    """Digits at a random place of the picture, and random patches of the photographs."""

    def __init__(self):
        digits = load_digits()
        self.digits = torch.from_numpy(digits.images).float().div(16)
        self.labels = torch.from_numpy(digits.target).long()
        images = load_sample_images().images
        self.photographs = [torch.tensor(i).permute(2, 0, 1).contiguous() for i in images]

    def __len__(self):
        return len(self.digits) + 400

    def __getitem__(self, index):
        if index >= len(self.digits):
            which = index % 2
            photograph = self.photographs[which]
            y = torch.randint(photograph.shape[1] - SIDE, ()).item()
            x = torch.randint(photograph.shape[2] - SIDE, ()).item()
            return photograph[:, y : y + SIDE, x : x + SIDE].float().div(255), 10 + which
        digit = F.interpolate(self.digits[None, None, index], scale_factor=3.0, mode="bilinear")
        y, x = torch.randint(SIDE - 24 + 1, (2,)).tolist()
        picture = torch.rand(3, SIDE, SIDE) * 0.2
        picture[:, y : y + 24, x : x + 24] += digit[0]
        return picture, int(self.labels[index])


class Block(nn.Module):
    """A residual block of two depthwise-separable convolutions."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x):
        y = F.relu(self.norm1(self.depthwise(x)))
        return F.relu(x + self.norm2(self.pointwise(y)))


class Classifier(nn.Module):
    def __init__(self, width=64, blocks=5, classes=12):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width * 16, classes)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.head(self.dropout(F.adaptive_avg_pool2d(x, 4).flatten(1)))


def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    dataset = Pictures()
    generator = torch.Generator().manual_seed(args.seed)
    picks = RandomSampler(dataset, True, args.steps * args.batch_size, generator=generator)
    loader = DataLoader(
        dataset,
        args.batch_size,
        sampler=picks,
        generator=generator,
        num_workers=2,
        multiprocessing_context="fork",
    )
    model = Classifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()
    losses, times = [], [time.monotonic()]
    for step, (pictures, labels) in enumerate(loader, start=1):
        optimizer.zero_grad()
        pictures = pictures.to(memory_format=torch.channels_last)
        loss = F.cross_entropy(model(pictures), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        times.append(time.monotonic())
        if step % 5 == 0 or step == args.steps:
            print(f"digits_cnn step {step}/{args.steps} loss {losses[-1]:.4f}", flush=True)
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
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=176)
    parser.add_argument("--threads", type=int, default=2, help="fixed, so that sums keep order")
    parser.add_argument("--out", help="write digests of the result to this JSON file")
    args = parser.parse_args()
    result = train(args)
    if args.out:
        save_digests(args, *result)


if __name__ == "__main__":
    main()
