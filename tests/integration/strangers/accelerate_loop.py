"""A loop prepared by Accelerate: accumulation, clipping, a tracker-less log, saved states."""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

set_seed(8)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(384, 1024), nn.GELU(), nn.Linear(1024, 1024), nn.GELU())
head = nn.Linear(1024, 4)
network = nn.Sequential(model, head)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(torch.randn(1024, 384), torch.randn(1024, 4)), 32, shuffle=True)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=20)
network, optimizer, loader, schedule = accelerator.prepare(network, optimizer, loader, schedule)
for epoch in range(2):
    for x, y in loader:
        with accelerator.accumulate(network):
            loss = nn.functional.mse_loss(network(x), y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    accelerator.print(f"epoch {epoch} loss {loss.item():.4f}")
    accelerator.save_state("state")
plain = accelerator.unwrap_model(network)
torch.save({"model": plain.state_dict(), "adam": optimizer.optimizer.state_dict()}, "result.pt")
