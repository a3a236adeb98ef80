"""A small training job; writes its losses and digests of all of its state.

Usage: hostile_job.py MODELS STEPS OUT [plain]. MODELS are trained one after the other. With `plain`
torchtide is never imported. Says "ready" and begins when it is sent a line, so that the jobs of a
lane begin together.
"""

import hashlib
import json
import pathlib
import sys

import torch
from torch import nn

#: From this step on an activation outlives its iteration, against what was learnt.
KEPT_FROM = 6

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


class Cnn(nn.Module):
    """Convolutions with BatchNorm and dropout; activations of 2 to 4 MiB."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1),
            nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(8 * 32 * 32, 64)

    def forward(self, images):
        return self.head(self.body(images).flatten(1))

    @staticmethod
    def batch(generator):
        return torch.randn(32, 3, 32, 32, generator=generator)


class Lstm(nn.Module):
    """An embedding and an LSTM with dropout; weights of 1 to 2 MiB."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(2048, 256)
        self.lstm = nn.LSTM(256, 256, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(256, 1024)

    def forward(self, words):
        return self.head(self.lstm(self.embedding(words))[0][:, -1])

    @staticmethod
    def batch(generator):
        return torch.randint(2048, (48, 32), generator=generator)


class Gpt(nn.Module):
    """Two blocks of attention with dropout."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(2048, 256)
        self.blocks = nn.Sequential(
            *[nn.TransformerEncoderLayer(256, 4, 1024, 0.1, batch_first=True) for _ in range(2)]
        )
        self.head = nn.Linear(256, 64)

    def forward(self, words):
        return self.head(self.blocks(self.embedding(words)).mean(1))

    @staticmethod
    def batch(generator):
        return torch.randint(2048, (32, 48), generator=generator)


def digest(tensor):
    flat = tensor.detach().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest()


def digests(model, optimizer):
    state = {f"model {name}": digest(tensor) for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        state |= {f"adam {index} {name}": digest(tensor) for name, tensor in values.items()}
    return state | {"random state": digest(torch.get_rng_state())}


def train(kind, steps, iterate):
    torch.manual_seed(7)
    model = kind()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(11)
    losses, kept, kept_digests, changed = [], None, None, 0
    for step, inputs in enumerate(iterate([kind.batch(generator) for _ in range(steps)])):
        optimizer.zero_grad()
        outputs = model(inputs)  # the boundary: others have had their turn when it begins
        if kept is not None:  # an activation kept over the boundary, as a replay buffer would
            changed += digest(kept) != kept_digests
        first = model.embedding if hasattr(model, "embedding") else model.body
        kept = first(inputs).detach()
        kept_digests = digest(kept)
        targets = inputs.reshape(len(inputs), -1)[:, 0].long().abs() % 64
        loss = nn.functional.cross_entropy(outputs, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item().hex())
        if step < KEPT_FROM:
            kept = None  # dies in its iteration, and is learnt as such: later it is in the lane
    return {"losses": losses, "changed": changed, "digests": digests(model, optimizer)}


def main():
    kinds = {"cnn": Cnn, "lstm": Lstm, "gpt": Gpt}
    steps, out = int(sys.argv[2]), pathlib.Path(sys.argv[3])
    plain = sys.argv[4:] == ["plain"]
    report = {}
    if not plain:
        import torchtide as tide
        from torchtide import _core

        tide.start()
    torch.optim.Adam([torch.zeros(1)])  # imports half of torch: before the others wait for it
    print("ready", flush=True)
    sys.stdin.readline()
    iterate = list if plain else tide.iterations
    results = {name: train(kinds[name], steps, iterate) for name in sys.argv[1].split(",")}
    if not plain:
        report = tide.report()
        _core.validate()
    out.write_text(json.dumps({"results": results, "report": report}))


if __name__ == "__main__":
    main()
