"""A training loop from a tutorial's first chapter: a module, and weights updated by hand."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(42)
rate, momentum = 0.05, 0.9

x_train, y_train = torch.randn(2048, 784), torch.randint(10, (2048,))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(784, 1024)
        self.second = nn.Linear(1024, 1024)
        self.last = nn.Linear(1024, 10)

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))))


def batches(size):
    for start in range(0, len(x_train), size):
        yield x_train[start : start + size], y_train[start : start + size]


model = Classifier()
velocity = [torch.zeros_like(p) for p in model.parameters()]
for epoch in range(6):
    for xb, yb in batches(256):
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        with torch.no_grad():
            for p, v in zip(model.parameters(), velocity, strict=True):
                v.mul_(momentum).add_(p.grad)
                p -= rate * v
            model.zero_grad()
    print(f"epoch {epoch} loss {loss.item():.4f}", flush=True)

torch.save({"model": model.state_dict(), "velocity": velocity}, "result.pt")
