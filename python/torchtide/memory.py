"""Figures about memory: of this job and of everybody on the device."""

from __future__ import annotations

from typing import Any

from torchtide import _core


def report() -> dict[str, Any]:
    """Bytes of this job by kind; docs/reference/stats.md explains each."""
    return _core.report()


def table() -> str:
    """Who holds what on the device, as text."""
    return _core.memory_table()
