"""A GAN: two optimizers that take turns, noise that lives for ever, samples kept on the way."""

import torch
from torch import nn

LATENT = 64


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(LATENT, 128 * 7 * 7)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(128), nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.ConvTranspose2d(64, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise):
        return self.layers(self.project(noise).view(-1, 128, 7, 7))


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 4, 2, 1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 7 * 7, 1),
        )  # fmt: skip

    def forward(self, images):
        return self.layers(images)


def main():
    torch.manual_seed(999)
    generator, discriminator = Generator(), Discriminator()
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.RMSprop(discriminator.parameters(), lr=1e-4)
    criterion = nn.BCEWithLogitsLoss()
    fixed_noise = torch.randn(32, LATENT)
    samples = []
    for step in range(24):
        real = torch.rand(32, 1, 28, 28).mul(2).sub(1)
        ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)

        discriminator.zero_grad()
        error_real = criterion(discriminator(real), ones)
        error_real.backward()
        fake = generator(torch.randn(32, LATENT))
        error_fake = criterion(discriminator(fake.detach()), zeros)
        error_fake.backward()
        optimizer_d.step()

        if step % 2 == 0:  # the critic has two steps for each of the generator
            generator.zero_grad()
            error = criterion(discriminator(fake), ones)
            error.backward()
            optimizer_g.step()

        if step % 6 == 0:
            with torch.no_grad():
                samples.append(generator(fixed_noise))
            print(f"[{step}/24] D {(error_real + error_fake).item():.4f} G {error.item():.4f}")
    state = {
        "generator": generator.state_dict(),
        "discriminator": discriminator.state_dict(),
        "optimizers": [optimizer_g.state_dict(), optimizer_d.state_dict()],
        "samples": torch.cat(samples),
    }
    torch.save(state, "result.pt")


if __name__ == "__main__":
    main()
