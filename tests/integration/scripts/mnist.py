"""The image classifier of the official examples (mnist), on scikit-learn's digits.

Two epochs with evaluation, a learning rate schedule, and the model saved and loaded at the end.
"""

import argparse
import tempfile
from pathlib import Path

import digest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        x = self.fc2(self.dropout2(x))
        return F.log_softmax(x, dim=1)


def train(args, model, train_loader, optimizer, epoch, losses):
    model.train()
    for batch_idx, (data, target) in enumerate(train_loader):
        optimizer.zero_grad()
        output = model(data)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if batch_idx % args.log_interval == 0:
            print(f"Train Epoch: {epoch} batch {batch_idx} Loss: {loss.item():.6f}", flush=True)
        if args.dry_run:
            break


def test(model, test_loader, losses):
    model.eval()
    test_loss, correct = 0.0, 0
    with torch.no_grad():
        for data, target in test_loader:
            output = model(data)
            test_loss += F.nll_loss(output, target, reduction="sum").item()
            correct += output.argmax(dim=1).eq(target).sum().item()
    losses.append(test_loss)
    print(f"Test set: loss {test_loss:.4f}, {correct} of {len(test_loader.dataset)} right")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1.0)
    parser.add_argument("--gamma", type=float, default=0.7)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-interval", type=int, default=2)
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(2)

    digits = load_digits()
    images = torch.tensor(digits.images).float().div(16).unsqueeze(1)
    images = F.interpolate(images, size=(28, 28), mode="bilinear").sub(0.3).div(0.4)
    labels = torch.tensor(digits.target).long()
    cut = len(images) * 4 // 5
    train_set = TensorDataset(images[:cut], labels[:cut])
    test_set = TensorDataset(images[cut:], labels[cut:])
    kwargs = {"batch_size": args.batch_size, "num_workers": args.workers}
    if args.workers:
        kwargs["multiprocessing_context"] = "fork"
    train_loader = DataLoader(train_set, shuffle=True, **kwargs)
    test_loader = DataLoader(test_set, **kwargs)

    model = Net()
    optimizer = optim.Adadelta(model.parameters(), lr=args.lr)
    scheduler = StepLR(optimizer, step_size=1, gamma=args.gamma)
    losses = []
    for epoch in range(1, args.epochs + 1):
        train(args, model, train_loader, optimizer, epoch, losses)
        test(model, test_loader, losses)
        scheduler.step()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mnist_cnn.pt"
        torch.save(model.state_dict(), path)
        again = Net()
        again.load_state_dict(torch.load(path))
    same = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
    if args.out:
        digest.write(args.out, model, optimizer, losses)


if __name__ == "__main__":
    main()
