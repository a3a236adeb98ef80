"""Typed doors to the functions of `torchtide._core` that the command line uses."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from torchtide.errors import OptionError, TideError


def module() -> Any:
    """The extension module.

    Raises:
        TideError: It was not built, or for another Python.
    """
    try:
        return importlib.import_module("torchtide._core")
    except ImportError as error:
        raise TideError(
            f"the extension module torchtide._core cannot be loaded: {error}",
            advice="build it (./scripts/setup) or install the wheel again; `tide doctor` says more",
        ) from error


def parse_bytes(text: str, asked: str) -> int:
    """Bytes of "1.5GiB", "300MB", "4096".

    Raises:
        OptionError: The text is no size; `asked` says in whose name.
    """
    try:
        return int(module().parse_bytes(text))
    except ValueError as error:
        raise _split_advice(str(error), asked) from error


def format_bytes(size_bytes: int) -> str:
    """Such as "1.5 GiB"."""
    return str(module().format_bytes(int(size_bytes)))


def runtime_dir() -> Path:
    """The folder of the socket and the device table, not made here."""
    return Path(str(module().runtime_dir()))


def options() -> list[dict[str, str]]:
    """Each tunable with name, variable, value, origin, unit and reason."""
    return cast("list[dict[str, str]]", module().options())


def set_option(name: str, text: str, origin: str) -> None:
    """Sets a tunable of this process; "file" yields to the environment, "call" does not."""
    module().set_option(name, text, origin)


def _split_advice(message: str, asked: str) -> OptionError:
    """The library writes "what is wrong; what to do" in one sentence."""
    wrong, _, advice = message.partition("; ")
    return OptionError(wrong, asked=asked, advice=advice)
