"""A tree of settings with targets to instantiate and overrides as arguments; changes folder."""

import importlib
import json
import os
import sys
from pathlib import Path

import torch

CONFIG = {
    "seed": 11,
    "output": "outputs/run",
    "model": {
        "_target_": "torch.nn.LSTM",
        "input_size": 128,
        "hidden_size": 320,
        "num_layers": 2,
        "dropout": 0.2,
        "batch_first": True,
    },
    "head": {"_target_": "torch.nn.Linear", "in_features": 320, "out_features": 128},
    "optimizer": {"_target_": "torch.optim.NAdam", "lr": 0.002},
    "scheduler": {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.01},
    "trainer": {"steps": 30, "length": 48, "batch": 16, "truncate": 0.25},
}


def override(config, text):
    path, value = text.split("=", 1)
    *parents, leaf = path.split(".")
    for key in parents:
        config = config[key]
    try:
        config[leaf] = json.loads(value)
    except json.JSONDecodeError:
        config[leaf] = value


def instantiate(node, *positional, **extra):
    settings = {**node, **extra}
    module, _, name = settings.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name)(*positional, **settings)


def main(config):
    torch.manual_seed(config["seed"])
    settings = config["trainer"]
    body, head = instantiate(config["model"]), instantiate(config["head"])
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = instantiate(config["optimizer"], parameters)
    scheduler = instantiate(config["scheduler"], optimizer, total_steps=settings["steps"])
    hidden = None  # carried on from one batch to the next, as language models do
    losses = []
    for _ in range(settings["steps"]):
        x = torch.randn(settings["batch"], settings["length"], 128)
        if hidden is not None:
            hidden = tuple(h.detach() for h in hidden)
        output, hidden = body(x, hidden)
        loss = (head(output) - x.roll(1, 1)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings["truncate"])
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    state = {"body": body.state_dict(), "head": head.state_dict(), "hidden": hidden}
    torch.save(state | {"losses": losses, "nadam": optimizer.state_dict()}, "result.pt")
    Path("config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        override(CONFIG, argument)
    Path(CONFIG["output"]).mkdir(parents=True, exist_ok=True)
    os.chdir(CONFIG["output"])
    main(CONFIG)
