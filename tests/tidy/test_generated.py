"""Generated files are those that scripts/generate would write now."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import source_tree as tree


def check(name: str) -> None:
    command = [sys.executable, str(tree.ROOT / "scripts/generate.py"), "--check", name]
    environment = {"PYTHONPATH": str(tree.ROOT / "python"), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, f"run scripts/generate:\n{result.stdout}{result.stderr}"


def test_the_page_of_options_is_that_of_the_table() -> None:
    check("docs/reference/options.md")


@pytest.mark.skipif(
    importlib.util.find_spec("pybind11_stubgen") is None, reason="pybind11-stubgen is not installed"
)
def test_the_type_stub_is_that_of_the_module() -> None:
    check("python/torchtide/_core.pyi")
