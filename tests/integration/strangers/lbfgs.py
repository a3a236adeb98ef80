"""Style transfer's way: LBFGS over an image, a frozen network, a closure called often."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(23)
features = nn.Sequential(
    nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(),
    nn.AvgPool2d(2), nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(),
).requires_grad_(False)  # fmt: skip


def gram(x):
    flat = x.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()


def picture(size):
    coarse = torch.rand(1, 3, size // 16, size // 16)
    return F.interpolate(coarse, size=(size, size), mode="bicubic")


content, style = picture(160), picture(160) * 0.3
with torch.no_grad():
    wanted_content = features(content)
    wanted_style = gram(features(style))

image = torch.rand_like(content).requires_grad_(True)
optimizer = torch.optim.LBFGS(
    [image], max_iter=3, history_size=8, tolerance_change=0, line_search_fn="strong_wolfe"
)
calls = 0


def closure():
    global calls
    optimizer.zero_grad()
    found = features(image)
    loss = F.mse_loss(found, wanted_content, reduction="sum")
    loss = loss + 1e4 * F.mse_loss(gram(found), wanted_style, reduction="sum")
    loss.backward()
    calls += 1
    return loss


for step in range(12):
    loss = optimizer.step(closure)
    print(f"step {step} loss {loss.item():.6f} after {calls} calls", flush=True)

state = optimizer.state_dict()["state"][0]
history = {key: torch.stack(state[key]) for key in ("old_dirs", "old_stps")}
torch.save({"image": image, "history": history, "calls": calls}, "result.pt")
