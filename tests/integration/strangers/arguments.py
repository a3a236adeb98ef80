"""An image classifier behind argparse, with a validation loop and early stopping."""

import argparse
import logging
import random
import time

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset, random_split

log = logging.getLogger("train")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("-b", "--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", "--learning-rate", dest="lr", type=float, default=0.02)
    parser.add_argument("--name", default="resnet", help="name of the run")
    parser.add_argument("--limit", type=int, default=640, help="use only so many images")
    parser.add_argument("--patience", type=int, default=2)
    parser.add_argument("--no-augment", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x):
        return torch.relu_(x + self.body(x))


@torch.inference_mode()
def validate(model, loader):
    model.eval()
    losses = [nn.functional.cross_entropy(model(x), y, reduction="none") for x, y in loader]
    model.train()
    return torch.cat(losses).mean().item()


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args = parse()
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    images = torch.from_numpy(np.random.rand(args.limit, 3, 24, 24).astype("float32"))
    labels = images.mean((1, 2, 3)).mul(1000).long() % 4
    train_set, valid_set = random_split(TensorDataset(images, labels), [0.8, 0.2])
    train_loader = DataLoader(train_set, args.batch_size, shuffle=True, drop_last=True)
    valid_loader = DataLoader(valid_set, 2 * args.batch_size)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), Block(32), nn.MaxPool2d(2), Block(32),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 4),
    )  # fmt: skip
    optimizer = optim.SGD(model.parameters(), args.lr, momentum=0.9, weight_decay=5e-4)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    best, waited, trace = float("inf"), 0, []
    for epoch in range(args.epochs):
        begun = time.time()
        for x, y in train_loader:
            if not args.no_augment and random.random() < 0.5:
                x = x.flip(3)
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        valid = validate(model, valid_loader)
        plateau.step(valid)
        trace.append(valid)
        log.info("epoch %d valid %.4f in %.1f s", epoch, valid, time.time() - begun)
        if valid < best:
            best, waited = valid, 0
            torch.save({"model": model.state_dict(), "trace": trace}, "result.pt")
        else:
            waited += 1
            if waited > args.patience:
                log.info("no progress, stopping")
                break


if __name__ == "__main__":
    main()
