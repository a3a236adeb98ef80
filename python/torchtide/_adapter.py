"""Finds the adapter module for the torch that is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

SUPPORTED = ((2, 11), (2, 15))


def load() -> ModuleType:
    """Returns `_torch_MAJOR_MINOR`.

    Raises:
        ImportError: naming the torch version that was found and those that are supported.
    """
    import torch

    major, minor = (int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    name = f"torchtide._torch_{major}_{minor}"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        low, high = SUPPORTED
        raise ImportError(
            f"torchtide has no adapter for torch {torch.__version__} "
            f"({name} cannot be imported: {error}); "
            f"this installation has those for torch {', '.join(installed()) or '(none)'}. "
            f"torch {low[0]}.{low[1]} to {high[0]}.{high[1]} are supported, "
            "and a build from source makes the adapter for the torch it finds"
        ) from error


def installed() -> list[str]:
    """Versions of torch that this installation has an adapter for, such as "2.15"."""
    found = Path(__file__).parent.glob("_torch_*_*.so")
    versions = {tuple(map(int, path.name.split(".")[0].split("_")[2:4])) for path in found}
    return [f"{major}.{minor}" for major, minor in sorted(versions)]
