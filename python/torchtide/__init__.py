"""torchtide: many PyTorch training jobs on the same device, each as if it owned the machine.

Importing the package changes nothing: no hook is set and torch is not imported. A job begins with
`tide run -- python train.py` (no code change), with `@tide.job`, or with `tide.iterations(loader)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from torchtide import cuda as cuda
    from torchtide import memory as memory
    from torchtide import sim as sim
    from torchtide._signals import on_save as on_save
    from torchtide.elastic import elastic as elastic
    from torchtide.runtime import iterations as iterations
    from torchtide.runtime import job as job
    from torchtide.runtime import pause as pause
    from torchtide.runtime import report as report
    from torchtide.runtime import resume as resume
    from torchtide.runtime import set_limit as set_limit
    from torchtide.runtime import start as start
    from torchtide.tracking import track as track

_RUNTIME = {"iterations", "job", "start", "set_limit", "pause", "resume", "report"}
_MODULES = {"cuda", "memory", "runtime", "errors", "cli", "elastic", "notebook", "sim", "tracking"}
_NOTEBOOK = {"load_ipython_extension", "unload_ipython_extension"}

__all__ = [
    "__version__",
    "cuda",
    "elastic",
    "errors",
    "memory",
    "on_save",
    "track",
    *sorted(_RUNTIME),
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"torchtide.{name}")
    if name in _RUNTIME:
        return getattr(importlib.import_module("torchtide.runtime"), name)
    if name == "on_save":
        return importlib.import_module("torchtide._signals").on_save
    if name == "track":
        return importlib.import_module("torchtide.tracking").track
    if name in _NOTEBOOK:  # %load_ext torchtide
        return getattr(importlib.import_module("torchtide.notebook"), name)
    raise AttributeError(f"module 'torchtide' has no attribute {name!r}")
