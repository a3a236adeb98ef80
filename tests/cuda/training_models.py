"""Models for training on the phantom GPU: ResNet-50 and GPT-2 in their published sizes, a VAE."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a way around them."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.around(x), inplace=True)


class ResNet50(nn.Module):
    """He et al. 2015, table 1: 25.6 million parameters."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        ]
        channels = 64
        for stage, count in enumerate(blocks):
            width = 64 << stage
            for block in range(count):
                stride = 2 if block == 0 and stage > 0 else 1
                layers.append(Bottleneck(channels, width, stride))
                channels = 4 * width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, -1).transpose(1, 3)
        q, k, v = parts.unbind(2)
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=0.1, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + functional.dropout(self.feed(self.norms[1](x)), 0.1)


class Gpt2(nn.Module):
    """Radford et al. 2019; the defaults are the smallest size, 124 million parameters."""

    def __init__(
        self, layers: int = 12, width: int = 768, words: int = 50257, length: int = 1024
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Vae(nn.Module):
    """Kingma and Welling 2013, with convolutions, on pictures of 64 by 64."""

    def __init__(self, width: int = 32, latent: int = 128) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width, 8 * width]
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            down += [nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
            up = [nn.ConvTranspose2d(b, a, 4, 2, 1), nn.ReLU(), *up]
        self.encode = nn.Sequential(*down, nn.Flatten(), nn.Linear(8 * width * 16, 2 * latent))
        self.widen = nn.Linear(latent, 8 * width * 16)
        self.decode = nn.Sequential(nn.Unflatten(1, (8 * width, 4, 4)), *up[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, log_variance = self.encode(x).chunk(2, 1)
        drawn = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        close = functional.mse_loss(self.decode(self.widen(drawn)), x)
        return close + (mean.square() + log_variance.exp() - log_variance).mean()


class Mlp(nn.Sequential):
    """Something small to compile."""

    def __init__(self, width: int = 2048) -> None:
        super().__init__(nn.Linear(64, width), nn.GELU(), nn.Linear(width, 64))


Batch = tuple[torch.Tensor, ...]
Loss = Callable[[nn.Module, Batch], torch.Tensor]


def _classified(model: nn.Module, batch: Batch) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]).float(), batch[1])


def _next_words(model: nn.Module, batch: Batch) -> torch.Tensor:
    tokens = batch[0]
    words = model(tokens[:, :-1]).float()
    return functional.cross_entropy(words.flatten(0, 1), tokens[:, 1:].flatten())


def _rebuilt(model: nn.Module, batch: Batch) -> torch.Tensor:
    return model(batch[0])


def _squared(model: nn.Module, batch: Batch) -> torch.Tensor:
    return (model(batch[0]) - batch[0]).square().mean()


def make(kind: str, batch: int, **sizes: int) -> tuple[nn.Module, Loss, list[Batch]]:
    """A model without contents on the CPU's side, its loss, and three batches of the host.

    Batches differ in size, as a last batch does, so that the allocator has something to do.
    """
    counts = [batch, batch, max(1, batch - 1)]
    with torch.device("meta"):
        if kind == "resnet50":
            model: nn.Module = ResNet50(**sizes)
        elif kind == "gpt2":
            model = Gpt2(**sizes)
        elif kind == "mlp":
            model = Mlp(**sizes)
        else:
            model = Vae(**sizes)
    if kind == "resnet50":
        pictures: list[Batch] = [
            (torch.ones(n, 3, 224, 224), torch.zeros(n, dtype=torch.long)) for n in counts
        ]
        return model, _classified, pictures
    if kind == "gpt2":
        length = sizes.get("length", 1024)
        return model, _next_words, [(torch.zeros(n, length, dtype=torch.long),) for n in counts]
    if kind == "mlp":
        return model, _squared, [(torch.ones(n, 64),) for n in counts]
    return model, _rebuilt, [(torch.ones(n, 3, 64, 64),) for n in counts]
