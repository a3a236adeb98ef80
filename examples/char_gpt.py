"""Train a character-level GPT on real text: the documentation that comes with Python itself.

Plain PyTorch, in the manner of minGPT.

    python examples/char_gpt.py --steps 20
"""

import argparse
import hashlib
import json
import pydoc_data.topics
import resource
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler


class Characters(Dataset):
    """Windows of the text and, for each character of a window, the one that follows it."""

    def __init__(self, window):
        text = sys.copyright + "".join(t for _, t in sorted(pydoc_data.topics.topics.items()))
        self.alphabet = sorted(set(text))
        number = {character: i for i, character in enumerate(self.alphabet)}
        self.text = torch.tensor([number[character] for character in text])
        self.window = window

    def __len__(self):
        return len(self.text) - self.window

    def __getitem__(self, index):
        piece = self.text[index : index + self.window + 1]
        return piece[:-1], piece[1:]


class Block(nn.Module):
    """Causal self-attention and a perceptron, each on a residual branch."""

    def __init__(self, width, heads, window):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        future = torch.ones(window, window, dtype=torch.bool).triu(1)
        self.register_buffer("future", future)

    def forward(self, x):
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(self.future[:length, :length], float("-inf")).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class CharGPT(nn.Module):
    def __init__(self, vocabulary, window, width=128, heads=8, layers=4):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.zeros(window, width))
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*[Block(width, heads, window) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens, targets):
        x = self.dropout(self.token(tokens) + self.position[: tokens.shape[1]])
        logits = self.head(self.norm(self.blocks(x)))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    dataset = Characters(args.window)
    generator = torch.Generator().manual_seed(args.seed)
    picks = RandomSampler(dataset, True, args.steps * args.batch_size, generator=generator)
    loader = DataLoader(dataset, args.batch_size, sampler=picks, generator=generator)
    model = CharGPT(len(dataset.alphabet), args.window)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    model.train()
    losses, times = [], [time.monotonic()]
    for step, (tokens, targets) in enumerate(loader, start=1):
        optimizer.zero_grad()
        loss = model(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        times.append(time.monotonic())
        if step % 5 == 0 or step == args.steps:
            print(f"char_gpt step {step}/{args.steps} loss {losses[-1]:.4f}", flush=True)
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
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=68)
    parser.add_argument("--window", type=int, default=192, help="characters the model sees")
    parser.add_argument("--threads", type=int, default=2, help="fixed, so that sums keep order")
    parser.add_argument("--out", help="write digests of the result to this JSON file")
    args = parser.parse_args()
    result = train(args)
    if args.out:
        save_digests(args, *result)


if __name__ == "__main__":
    main()
