"""What `tide doctor --gpu` tells, tried in a process that ends: so does its context."""

from __future__ import annotations

import json
from typing import Any


def probe() -> dict[str, Any]:
    """What this Python's torch and this machine's driver offer."""
    import torch

    if not torch.cuda.is_available():
        return {"problem": "PyTorch sees no CUDA device"}
    from torchtide import cuda

    cuda.enable("tide doctor")
    figures = cuda.report()
    found: dict[str, Any] = {
        key: figures[key] for key in ("way", "way_reason", "offers") if key in figures
    }
    found["name"] = torch.cuda.get_device_name()
    return found


if __name__ == "__main__":
    print(json.dumps(probe()))
