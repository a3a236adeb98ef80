"""Every header of csrc compiles alone.

Those that a source of their own begins with are compiled alone by the build; the others are tried
here, and remembered by the hash of all that they include.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
import source_tree as tree

CACHE = tree.ROOT / ".cache" / "headers"
COMPILER = shutil.which("g++")


@functools.cache
def torch_folder() -> pathlib.Path:
    """Where torch is installed, without importing it."""
    script = tree.ROOT / "csrc" / "bind" / "torch_paths.py"
    output = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    ).stdout
    return pathlib.Path(output.strip().split(";")[1])


def includes_torch(path: str) -> bool:
    """Whether the header itself names a header of LibTorch."""
    return any(re.match(r"(torch|ATen|c10)/", name) for _, name in tree.includes(path))


def closure(path: str, seen: set[str]) -> set[str]:
    """`path` and all headers of csrc that it includes, directly or not."""
    if path in seen:
        return seen
    seen.add(path)
    for quote, name in tree.includes(path):
        if quote == '"' and (tree.ROOT / "csrc" / name).is_file():
            closure(f"csrc/{name}", seen)
    return seen


def command(path: str) -> list[str]:
    """The compiler call for one header given on standard input."""
    assert COMPILER is not None
    flags = ["-x", "c++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Icsrc"]
    if includes_torch(path):
        root = torch_folder() / "include"
        flags += ["-isystem", str(root), "-isystem", str(root / "torch/csrc/api/include")]
    if "pybind11" in tree.text(path):
        import pybind11

        flags += ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"]]
    return [COMPILER, *flags, "-"]


def compile_alone(path: str) -> str:
    """Empty when the header compiles alone, else what the compiler said."""
    call = command(path)
    digest = hashlib.sha256(repr(call).encode())
    for name in sorted(closure(path, set())):
        digest.update(name.encode() + b"\0" + tree.text(name).encode() + b"\0")
    stamp = CACHE / digest.hexdigest()
    if stamp.exists():
        return ""
    unit = f'#include "{path.removeprefix("csrc/")}"\n'
    result = subprocess.run(
        call, input=unit, capture_output=True, text=True, cwd=tree.ROOT, check=False
    )
    if result.returncode != 0:
        return f"{path}:\n{result.stderr}"
    CACHE.mkdir(parents=True, exist_ok=True)
    stamp.touch()
    return ""


def proven_by_build(path: str) -> bool:
    """Whether a source includes the header first, so that the build itself compiles it alone."""
    source = path.removesuffix(".h") + ".cc"
    if not (tree.ROOT / source).is_file():
        return False
    quote, name = next(iter(tree.includes(source)), ("", ""))
    return quote == '"' and f"csrc/{name}" == path


@pytest.mark.skipif(COMPILER is None, reason="g++ is not installed")
def test_every_header_compiles_alone() -> None:
    headers = [path for path in tree.files(".h", under="csrc/") if not proven_by_build(path)]
    assert headers
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        assert [said for said in pool.map(compile_alone, headers) if said] == []


def test_every_header_starts_with_a_sentence() -> None:
    headers = tree.files(".h")
    assert [path for path in headers if not tree.text(path).startswith("// ")] == []
