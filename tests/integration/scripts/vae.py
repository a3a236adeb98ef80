"""The variational autoencoder of the official examples (vae), on scikit-learn's digits.

Two epochs of Adam with evaluation; after each epoch pictures are drawn from the prior.
"""

import argparse

import digest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 400)
        self.fc21 = nn.Linear(400, 20)
        self.fc22 = nn.Linear(400, 20)
        self.fc3 = nn.Linear(20, 400)
        self.fc4 = nn.Linear(400, 784)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def decode(self, z):
        h3 = F.relu(self.fc3(z))
        return torch.sigmoid(self.fc4(h3))

    def forward(self, x):
        mu, logvar = self.encode(x.view(-1, 784))
        z = self.reparameterize(mu, logvar)
        return self.decode(z), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    bce = F.binary_cross_entropy(recon_x, x.view(-1, 784), reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


def train(args, model, loader, optimizer, epoch, losses):
    model.train()
    for batch_idx, data in enumerate(loader):
        optimizer.zero_grad()
        recon_batch, mu, logvar = model(data)
        loss = loss_function(recon_batch, data, mu, logvar)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        if batch_idx % args.log_interval == 0:
            print(f"Train Epoch: {epoch} Loss: {loss.item() / len(data):.6f}", flush=True)


def test(model, loader, losses):
    model.eval()
    test_loss = 0.0
    with torch.no_grad():
        for data in loader:
            recon_batch, mu, logvar = model(data)
            test_loss += loss_function(recon_batch, data, mu, logvar).item()
    losses.append(test_loss)
    print(f"====> Test set loss: {test_loss / len(loader.dataset):.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=360)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-interval", type=int, default=2)
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(2)

    images = torch.tensor(load_digits().images).float().div(16).unsqueeze(1)
    images = F.interpolate(images, size=(28, 28), mode="bilinear")
    cut = len(images) * 4 // 5
    train_loader = DataLoader(images[:cut], batch_size=args.batch_size, shuffle=True)
    test_loader = DataLoader(images[cut:], batch_size=args.batch_size)
    model = VAE()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for epoch in range(1, args.epochs + 1):
        train(args, model, train_loader, optimizer, epoch, losses)
        test(model, test_loader, losses)
        with torch.no_grad():
            sample = model.decode(torch.randn(64, 20))
        losses.append(sample.sum().item())
    if args.out:
        digest.write(args.out, model, optimizer, losses)


if __name__ == "__main__":
    main()
