"""Prints "MAJOR_MINOR;PACKAGE_DIR" of the installed torch for CMake, without importing it."""

import importlib.metadata
import importlib.util
import pathlib

version = importlib.metadata.version("torch").split("+")[0].split(".")
spec = importlib.util.find_spec("torch")
assert spec is not None and spec.origin is not None
print(f"{version[0]}_{version[1]};{pathlib.Path(spec.origin).parent}")
