"""Marks for all Python tests: `torch` from the test's own source, `integration` from its folder."""

import pathlib
import re

import pytest

TORCH = re.compile(
    r"^\s*(import torch\b(?!tide)|from torch(\.| )|.*importorskip\([\"']torch)", re.MULTILINE
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test whose file imports torch (or starts a script that does) runs on every torch."""
    touches: dict[pathlib.Path, bool] = {}
    for item in items:
        path = item.path
        if path not in touches:
            touches[path] = bool(TORCH.search(path.read_text(encoding="utf-8")))
        if touches[path]:
            item.add_marker("torch")
        if "integration" in path.parts:
            item.add_marker("integration")
