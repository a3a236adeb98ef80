"""Checkpoints in a thread of their own, and a run that goes on where the last one ended."""

import os
import random
import sys
import threading

import numpy as np
import torch
from torch import nn

CHECKPOINT = "last.pt"


def random_states():
    return {"torch": torch.get_rng_state(), "python": random.getstate()}


class Writer:
    """Writes copies of the state while training goes on; each file appears whole or not at all."""

    def __init__(self):
        self.thread = None

    def write(self, state, path):
        self.wait()
        copy = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), state)
        self.thread = threading.Thread(target=self._write, args=(copy, path))
        self.thread.start()

    def _write(self, state, path):
        torch.save(state, path + ".part")
        os.replace(path + ".part", path)

    def wait(self):
        if self.thread is not None:
            self.thread.join()


def main(epochs):
    torch.manual_seed(5)
    random.seed(5)
    model = nn.Sequential(
        nn.Embedding(512, 256), nn.Flatten(), nn.Linear(256 * 32, 512), nn.GELU(),
        nn.Dropout(0.2), nn.Linear(512, 512),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    first, writer = 0, Writer()
    if os.path.exists(CHECKPOINT):
        saved = torch.load(CHECKPOINT, weights_only=False, mmap=True)
        model.load_state_dict(saved["model"], assign=True)
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["random"]["torch"])
        random.setstate(saved["random"]["python"])
        first = saved["epoch"] + 1
        print(f"resumed after epoch {saved['epoch']}", flush=True)
    words = torch.from_numpy(np.random.default_rng(1).integers(0, 512, (640, 33)))
    for epoch in range(first, epochs):
        order = list(range(0, len(words), 64))
        random.shuffle(order)
        for start in order:
            batch = words[start : start + 64]
            loss = nn.functional.cross_entropy(model(batch[:, :-1]), batch[:, -1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        print(f"epoch {epoch} loss {loss.item():.4f}", flush=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        writer.write(
            state | {"schedule": schedule.state_dict(), "random": random_states()}, CHECKPOINT
        )
    writer.wait()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "result.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]))
