"""What the scripts here write about their result, for a bitwise comparison."""

import hashlib
import json
from pathlib import Path

import torch


def write(path, model, optimizer=None, losses=()):
    """Writes sha256 of parameters, buffers, optimizer state and random state, and losses in hex."""
    tensors = {f"parameter {name}": t for name, t in model.named_parameters()}
    tensors |= {f"buffer {name}": t for name, t in model.named_buffers()}
    states = optimizer.state_dict()["state"] if optimizer is not None else {}
    for index, state in states.items():
        tensors |= {f"optimizer {index} {k}": t for k, t in state.items() if torch.is_tensor(t)}
    tensors["random state"] = torch.get_rng_state()
    flat = {name: t.detach().reshape(-1).numpy() for name, t in sorted(tensors.items())}
    digests = {name: hashlib.sha256(array).hexdigest() for name, array in flat.items()}
    record = {"digests": digests, "losses": [float(loss).hex() for loss in losses]}
    Path(path).write_text(json.dumps(record))
