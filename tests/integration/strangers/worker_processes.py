"""DataLoader workers that persist over epochs, a collate function, and a pool beside them."""

import multiprocessing

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Waves(Dataset):
    def __len__(self):
        return 768

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        phase = torch.rand(1, generator=generator)
        time = torch.linspace(0, 1, 4096)
        noise = torch.randn(4096, generator=generator)
        return torch.sin(2 * torch.pi * (3 + index % 5) * (time + phase)) + 0.1 * noise, index % 5


def collate(samples):
    waves, labels = zip(*samples, strict=True)
    return {"wave": torch.stack(waves).unsqueeze(1), "label": torch.tensor(labels)}


def score(pair):
    predicted, label = pair
    return int(predicted == label)


def main():
    torch.manual_seed(3)
    loader = DataLoader(
        Waves(), batch_size=64, shuffle=True, num_workers=2, persistent_workers=True,
        prefetch_factor=2, collate_fn=collate, multiprocessing_context="fork",
    )  # fmt: skip
    model = nn.Sequential(
        nn.Conv1d(1, 32, 9, stride=4), nn.BatchNorm1d(32), nn.ReLU(),
        nn.Conv1d(32, 64, 9, stride=4), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, 5),
    )  # fmt: skip
    model(torch.zeros(1, 1, 4096))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    guesses, right = [], 0
    for epoch in range(3):
        for batch in loader:
            output = model(batch["wave"])
            loss = nn.functional.cross_entropy(output, batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            guesses += zip(output.argmax(1).tolist(), batch["label"].tolist(), strict=True)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            right += sum(pool.map(score, guesses))
        guesses.clear()
        print(f"epoch {epoch} loss {loss.item():.4f}, {right} right so far", flush=True)
    torch.save({"model": model.state_dict(), "right": right}, "result.pt")


if __name__ == "__main__":
    main()
