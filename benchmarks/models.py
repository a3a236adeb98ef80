"""Small but real training jobs: ResNet-18, a GPT, an LSTM language model, with their optimizers.

Suffixes of tensors are their shapes: B batch, C channels, H height, W width, T time, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional

VOCABULARY = 8192


@dataclasses.dataclass
class Job:
    """A model, its optimizer and an endless stream of batches, all from one seed."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]]

    def step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
        """One iteration as ordinary scripts write it; returns the loss."""
        inputs, targets = batch
        self.optimizer.zero_grad()
        outputs = self.model(inputs)
        loss = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        loss.backward()
        self.optimizer.step()
        return loss.item()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x_bchw) + self.shortcut(x_bchw))


def resnet18(width: int = 64) -> nn.Module:
    """ResNet-18 for 32x32 images: four stages of two blocks."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    channels_in = width
    for stage in range(4):
        channels = width << stage
        layers.append(ResidualBlock(channels_in, channels, 1 if stage == 0 else 2))
        layers.append(ResidualBlock(channels, channels, 1))
        channels_in = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels_in, 10)]
    return nn.Sequential(*layers)


class TransformerBlock(nn.Module):
    """Causal self-attention and a feed-forward layer, normalised before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x_btd: torch.Tensor) -> torch.Tensor:
        b, t, d = x_btd.shape
        qkv = self.qkv(self.norm_attention(x_btd)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_btd = x_btd + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        return x_btd + self.feed(self.norm_feed(x_btd))


class Gpt(nn.Module):
    """A decoder of a few blocks with learned positions."""

    def __init__(self, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens_bt: torch.Tensor) -> torch.Tensor:
        x_btd = self.tokens(tokens_bt) + self.positions.weight[: tokens_bt.shape[1]]
        return self.head(self.norm(self.blocks(x_btd)))


class LstmModel(nn.Module):
    """Embedding, two LSTM layers, a projection to the vocabulary."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.body = nn.LSTM(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens_bt: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.tokens(tokens_bt))[0])


def _images(batch: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(seed)
    while True:
        images = torch.randn(batch, 3, 32, 32, generator=source)
        yield images, torch.randint(10, (batch,), generator=source)


def _tokens(batch: int, length: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(seed)
    while True:
        tokens = torch.randint(VOCABULARY, (batch, length + 1), generator=source)
        yield tokens[:, :-1], tokens[:, 1:]


def _resnet(seed: int, batch: int = 4) -> Job:
    model = resnet18()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    return Job(model, optimizer, _images(batch, seed))


def _gpt(seed: int, batch: int = 2) -> Job:
    model = Gpt(width=384, depth=4, heads=6, length=128)
    return Job(model, torch.optim.AdamW(model.parameters(), 1e-3), _tokens(batch, 128, seed))


def _lstm(seed: int, batch: int = 8) -> Job:
    model = LstmModel(width=512)
    return Job(model, torch.optim.Adam(model.parameters(), 1e-3), _tokens(batch, 35, seed))


def _adam_heavy(seed: int, batch: int = 64, width: int = 4096, depth: int = 1) -> Job:
    # Wide layers and few samples: optimizer state is most of the footprint, as with large models.
    layers: list[nn.Module] = [nn.Linear(512, width), nn.GELU()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.GELU()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))

    def rows() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        source = torch.Generator().manual_seed(seed)
        while True:
            inputs = torch.randn(batch, 512, generator=source)
            yield inputs, torch.randint(10, (batch,), generator=source)

    # foreach=False: one tensor at a time is the smallest working set of an optimizer step
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, foreach=False)
    return Job(model, optimizer, rows())


BUILDERS: dict[str, Callable[..., Job]] = {
    "resnet": _resnet,
    "gpt": _gpt,
    "lstm": _lstm,
    "adam": _adam_heavy,
}


def build(name: str, seed: int = 0, **sizes: int) -> Job:
    """A job by name ("resnet", "gpt", "lstm", "adam"); same seed, same bits.

    Raises:
        KeyError: for another name.
    """
    torch.manual_seed(seed)
    return BUILDERS[name](seed + 1, **sizes)
