"""The file of a run's state: plain values and tensors, versioned, checksummed, renamed whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from torchtide.elastic import state as states
from torchtide.elastic.contexts import Contexts, Slot
from torchtide.elastic.training import Training
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


class Resumable:
    """The part of a `Run` that writes its state and goes on from one."""

    workers: int
    step_index: int
    _exchange: Any
    _settled: bool
    _standing: bool
    _base: int
    _restored: list[torch.Tensor] | None
    _training: Training
    _contexts: Contexts

    def _at(self) -> int:
        raise NotImplementedError

    def _slot(self, step: int, worker: int) -> Slot:
        raise NotImplementedError

    def _contract(self) -> dict[str, Any]:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The whole run after a step: training, place in the data, every logical worker's context.

        Call it where `step` has returned True, or outside of the loop. Numbers, text and tensors
        only; nothing is copied, so use it before the next step. `state["model"]` is the model's
        own state_dict, with the buffers of logical worker 0.

        Raises:
            OptionError: a step is half done, or optimizer or scheduler keep other objects.
        """
        if self._exchange is None or not self._settled:
            raise OptionError(
                "a step is half done" if self._exchange is not None else "nothing is prepared",
                asked="run.state_dict()",
                advice="call it where run.step() has returned True",
            )
        there = self._standing and self.step_index > 0
        contexts = [self._slot(self._at(), w) for w in range(self.workers)] if there else []
        return seal(
            {
                "contract": self._contract(),
                "step": self.step_index,
                "model": self._training.model_state(
                    self._contexts, contexts[0] if contexts else None
                ),
                "training": self._training.tree(self._contexts),
                "contexts": [slot.whole for slot in contexts],
            }
        )

    def load_state_dict(self, state: dict[str, Any], *, exact: bool = True) -> None:
        """Goes on from a state. Between `prepare` and the loop, in every process.

        The number of processes does not matter. More `epochs` than then are allowed.

        Raises:
            OptionError: it is of another run: other workers, data, model or arguments; or, with
                `exact`, of another torch, instruction set or number of threads.
        """
        if self._exchange is None or self._standing:
            raise OptionError("it belongs between prepare and the loop", asked="load a state")
        check(state, "load a state")
        compare(state["contract"], self._contract(), exact=exact)
        self._training.adopt(state["training"], self._contexts)
        self._restored = [context.clone() for context in state["contexts"]]
        self._base = self.step_index = int(state["step"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `state_dict` to a file that `torch.load` reads; in one process (`is_main`)."""
        write(path, self.state_dict())

    def load(self, path: str | os.PathLike[str], *, exact: bool = True) -> None:
        """`load_state_dict` of a file."""
        self.load_state_dict(read(path), exact=exact)


def _plain(value: Any) -> Any:
    """Without classes that derive from text, dict or list: `torch.load` would refuse them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(_plain(item) for item in value)
    return str(value) if isinstance(value, str) else value


def _checksum(state: dict[str, Any]) -> str:
    return states.Packed(state).digest()
