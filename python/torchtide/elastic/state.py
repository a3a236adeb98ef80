"""The state that a joiner receives: numbers as JSON, tensors as bytes; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import torch

from torchtide.errors import OptionError

_LENGTH_BYTES: Final = 8
_ALIGNMENT: Final = 64
#: By which a state may grow later: its numbers get more digits, and there are lists of losses.
ROOM_FOR_NUMBERS: Final = 64 << 10


class Packed:
    """A tree of plain values and tensors, measured and ready to be written."""

    def __init__(self, tree: Any) -> None:
        """Splits the tree. Raises OptionError for a value that JSON cannot carry."""
        self._tensors: list[torch.Tensor] = []
        encoded = self._encode(tree, "state")
        shapes = [[str(t.dtype).removeprefix("torch."), list(t.shape)] for t in self._tensors]
        self._head = json.dumps({"tree": encoded, "tensors": shapes}).encode()
        at = _LENGTH_BYTES + len(self._head)
        self._offsets = []
        for tensor in self._tensors:
            at = _aligned(at)
            self._offsets.append(at)
            at += tensor.nbytes
        self.size_bytes = _aligned(at)

    def write(self, view: memoryview) -> None:
        """Fills `view`, which has `size_bytes` bytes."""
        view[:_LENGTH_BYTES] = len(self._head).to_bytes(_LENGTH_BYTES, "little")
        view[_LENGTH_BYTES : _LENGTH_BYTES + len(self._head)] = self._head
        whole = torch.frombuffer(view, dtype=torch.uint8)
        for tensor, at in zip(self._tensors, self._offsets, strict=True):
            if tensor.numel():
                place = whole[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
                place.copy_(tensor)

    def digest(self) -> str:
        """SHA-256 of everything, without making one piece of it."""
        found = hashlib.sha256(self._head)
        for tensor in self._tensors:
            found.update(tensor_bytes(tensor))
        return found.hexdigest()

    def _encode(self, value: Any, where: str) -> Any:
        if isinstance(value, torch.Tensor):
            self._tensors.append(value.detach())
            return {"tensor": len(self._tensors) - 1}
        if isinstance(value, Mapping):
            return {
                "map": [[key, self._encode(item, f"{where}.{key}")] for key, item in value.items()]
            }
        if isinstance(value, tuple):
            return {"tuple": [self._encode(item, where) for item in value]}
        if isinstance(value, list):
            return {"list": [self._encode(item, where) for item in value]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise OptionError(
            f"{where} is a {type(value).__name__}, which cannot travel to another process",
            asked="hand the state to a joiner",
            advice="keep numbers, text and tensors in the state of optimizer and scheduler",
        )


def unpack(view: memoryview) -> Any:
    """The tree; its tensors are views of `view` and must be copied before it goes."""
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    at = _LENGTH_BYTES + length
    head = json.loads(bytes(view[_LENGTH_BYTES:at]))
    whole = torch.frombuffer(view, dtype=torch.uint8)
    tensors = []
    for name, shape in head["tensors"]:
        dtype: torch.dtype = getattr(torch, name)
        count = 1
        for size in shape:
            count *= size
        at = _aligned(at)
        tensors.append(whole[at : at + count * dtype.itemsize].view(dtype).view(shape))
        at += count * dtype.itemsize
    return _decode(head["tree"], tensors)


def _decode(value: Any, tensors: list[torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "map" in value:
        return {key: _decode(item, tensors) for key, item in value["map"]}
    if "tuple" in value:
        return tuple(_decode(item, tensors) for item in value["tuple"])
    return [_decode(item, tensors) for item in value["list"]]


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The elements in logical order."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
