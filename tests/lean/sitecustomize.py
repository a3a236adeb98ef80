"""Keeps the compiler out of the jobs of tests whose harness puts this folder on their path.

An optimizer's first call imports `torch._dynamo`, which takes as long as torch itself (two seconds
of a core), only to be told to leave that call alone. The harnesses of elastic jobs and of gangs
start hundreds of processes that compile nothing; those of hostile and of strangers' scripts run
what users have. A process that wants more of the compiler than is here ends with an error.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

COMPILER = "torch._dynamo"


class _Compiler(ModuleType):
    """What optimizers, process groups and DDP ask of it."""

    trace_rules = SimpleNamespace(clear_lru_cache=lambda: None)
    utils = SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer")

    @staticmethod
    def disable(
        fn: Callable[..., Any], recursive: bool = True, *, wrapping: bool = True
    ) -> Callable[..., Any]:
        del recursive, wrapping
        return fn

    @staticmethod
    def graph_break(msg: str = "") -> None:
        del msg

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{COMPILER}.{name} is not there: this job runs with {__file__}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        return importlib.machinery.ModuleSpec(COMPILER, self) if fullname == COMPILER else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Compiler(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.meta_path.insert(0, _Finder())
