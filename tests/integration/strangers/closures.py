"""A physics-informed network: closures for the optimizer, second derivatives, no data loader."""

import torch
from torch import nn

torch.manual_seed(0)

net = nn.Sequential(
    nn.Linear(2, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(),
    nn.Linear(512, 1),
)  # fmt: skip
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)
history = []


def residual(points):
    """u_t - u_xx of the heat equation."""
    points = points.requires_grad_(True)
    u = net(points)
    first = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
    second = torch.autograd.grad(first[:, 0].sum(), points, create_graph=True)[0][:, 0]
    return first[:, 1] - second


def closure():
    optimizer.zero_grad()
    inside = torch.rand(1024, 2)
    start = torch.cat([torch.rand(512, 1), torch.zeros(512, 1)], dim=1)
    physics = residual(inside).pow(2).mean()
    initial = (net(start)[:, 0] - torch.sin(torch.pi * start[:, 0])).pow(2).mean()
    loss = physics + 10 * initial
    loss.backward()
    history.append(loss)  # never detached: a habit that keeps every loss of the run
    return loss


for step in range(40):
    loss = optimizer.step(closure)
    scheduler.step()
    if step % 10 == 0:
        print(f"step {step:4d}  loss {loss.item():.5f}", flush=True)

torch.save({"net": net.state_dict(), "history": torch.stack(history).detach()}, "result.pt")
