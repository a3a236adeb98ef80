"""A small transformer: accumulated gradients, bfloat16, clipping, warm-up, averaged weights."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY, WIDTH, LENGTH = 1024, 256, 64
MICRO_BATCHES, STEPS = 3, 14


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.1, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.token.weight  # tied
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, words):
        hidden = self.token(words) + self.position
        return self.head(self.body(hidden, mask=self.mask, is_causal=True))


def warm_up(step):
    return (step + 1) / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / STEPS))


torch.manual_seed(1337)
model = Model()
average = copy.deepcopy(model).requires_grad_(False)
decay = [p for p in model.parameters() if p.dim() > 1]
other = [p for p in model.parameters() if p.dim() <= 1]
groups = [{"params": decay, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=3e-4)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)
data = torch.randint(VOCABULARY, (4096,))

for step in range(STEPS):
    total = 0.0
    for micro in range(MICRO_BATCHES):
        starts = torch.randint(len(data) - LENGTH - 1, (8,))
        x = torch.stack([data[i : i + LENGTH] for i in starts])
        y = torch.stack([data[i + 1 : i + 1 + LENGTH] for i in starts])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(x)
            loss = F.cross_entropy(logits.view(-1, VOCABULARY).float(), y.view(-1))
        (loss / MICRO_BATCHES).backward()
        total += loss.item() / MICRO_BATCHES
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=step % 2 == 0)
    scheduler.step()
    with torch.no_grad():
        for mean, now in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(now, 0.1)
    print(f"step {step} loss {total:.4f} norm {norm:.3f} lr {scheduler.get_last_lr()[0]:.2e}")

state = {
    "model": model.state_dict(),
    "average": average.state_dict(),
    "adam": optimizer.state_dict(),
}
torch.save(state | {"adam": optimizer.state_dict()}, "result.pt")
