"""The file of a run's state: plain values and tensors, versioned, checksummed, renamed whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from torchtide.elastic import state as states
from torchtide.errors import OptionError

FORMAT: Final = 1
#: A difference here changes bits, not what is trained.
_BITS_ONLY: Final = ("torch", "instructions", "threads")
#: May differ: the data are seen more often, or on other numbers of processes.
_FREE: Final = ("epochs", "steps")


def seal(state: dict[str, Any]) -> dict[str, Any]:
    """Adds format and checksum. Raises OptionError for what is no plain value and no tensor."""
    plain = _plain(state)
    return {"format": FORMAT, "checksum": _checksum(plain), **plain}


def check(state: Any, asked: str) -> None:
    """Raises OptionError unless `state` is what `seal` returned."""
    if not isinstance(state, dict) or "checksum" not in state:
        raise OptionError("it is no state of an elastic run", asked=asked)
    if state.get("format") != FORMAT:
        raise OptionError(
            f"it has format {state.get('format')}, this version reads {FORMAT}", asked=asked
        )
    inner = {key: value for key, value in state.items() if key not in ("format", "checksum")}
    if _checksum(inner) != state["checksum"]:
        raise OptionError(
            "its content does not match its checksum", asked=asked, advice="take an older one"
        )


def write(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Publishes the file by rename: at any moment there is the old one or the new one, whole."""
    target = Path(path)
    draft = target.with_name(f"{target.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the name too survives a power cut
    finally:
        os.close(folder)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state in a file. Raises OptionError when it is none, or damaged."""
    asked = f"load {os.fspath(path)}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise OptionError("there is no such file", asked=asked) from None
    except Exception as error:  # of what is cut off or no pickle, it raises anything
        raise OptionError(
            f"it cannot be read: {error}", asked=asked, advice="take an older one"
        ) from error
    check(state, asked)
    return state  # type: ignore[no-any-return]


def compare(saved: dict[str, Any], ours: dict[str, Any], *, exact: bool) -> None:
    """Raises OptionError when a run of contract `ours` is not the one that was saved."""
    for key, value in ours.items():
        if key in _FREE or saved.get(key) == value or (key in _BITS_ONLY and not exact):
            continue
        advice = "give prepare what it was given then"
        if key in _BITS_ONLY:
            advice = "exact=False goes on, with other bits than the run would have had"
        raise OptionError(
            f"it was saved with {key} {saved.get(key)!r}, this run has {value!r}",
            asked="load the state of a run",
            advice=advice,
        )


def _plain(value: Any) -> Any:
    """Without classes that derive from text, dict or list: `torch.load` would refuse them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(_plain(item) for item in value)
    return str(value) if isinstance(value, str) else value


def _checksum(state: dict[str, Any]) -> str:
    return states.Packed(state).digest()
