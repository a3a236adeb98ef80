"""What belongs to a logical worker and not to a process: random states and buffers."""

from __future__ import annotations

import hashlib
import random
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

import torch

from torchtide.elastic.data import seed_all
from torchtide.elastic.state import tensor_bytes

_TORCH: Final = 5056  # bytes of the state of torch's CPU generator
_PYTHON: Final = struct.Struct("<625I?d")
_NUMPY: Final = struct.Struct("<2496sI?d")
_PYTHON_AT: Final = _TORCH
_NUMPY_AT: Final = _PYTHON_AT + _PYTHON.size
_NORM_BYTES: Final = 64
_RANDOM_BYTES: Final = -(-(_NUMPY_AT + _NUMPY.size) // 64) * 64


class Slot:
    """Typed views of the bytes of one context."""

    def __init__(
        self, view: memoryview, buffers: Sequence[torch.Tensor], norm: bool = False
    ) -> None:
        """Lays the fields out over `view`; with `norm` its last bytes are a number."""
        whole = torch.frombuffer(view, dtype=torch.uint8)
        self.view = view
        self.whole = whole
        self.torch_state = whole[:_TORCH]
        #: 1 where the worker has changed that buffer since the beginning.
        self.changed = whole[_RANDOM_BYTES : _RANDOM_BYTES + len(buffers)]
        at = _RANDOM_BYTES + _aligned(len(buffers))
        self.buffers: list[torch.Tensor] = []
        for buffer in buffers:
            piece = whole[at : at + buffer.nbytes]
            self.buffers.append(piece.view(buffer.dtype).view(buffer.shape))
            at += _aligned(buffer.nbytes)
        #: What the data keep of a logical worker; they write it themselves.
        end = len(view) - (_NORM_BYTES if norm else 0)
        self.extra = view[at:end]
        #: Squared norm of the worker's gradient in the step before; empty where none is kept.
        self.norm = whole[end:].view(torch.float64)


class Contexts:
    """Puts the context of a logical worker into this process, and takes it out again."""

    def __init__(
        self, buffers: Sequence[torch.Tensor], seed: int, extra: int = 0, *, norms: bool = False
    ) -> None:
        """Remembers the buffers as they are: every worker begins with them.

        `extra` bytes of each context belong to the data; `norms` keeps a gradient's norm in each.
        """
        self.norms = norms
        self.buffers = list(buffers)
        self._seed = seed
        self._initial = [buffer.detach().clone() for buffer in self.buffers]
        self.size_bytes = (
            _RANDOM_BYTES
            + _aligned(len(self.buffers))
            + sum(_aligned(buffer.nbytes) for buffer in self.buffers)
            + _aligned(extra)
            + (_NORM_BYTES if norms else 0)
        )

    def initial_changed(self) -> None:
        """The buffers have just been received from a peer: they are the new beginning."""
        for initial, buffer in zip(self._initial, self.buffers, strict=True):
            initial.copy_(buffer)

    def initial(self) -> list[torch.Tensor]:
        """The buffers as every worker begins with them."""
        return self._initial

    def load_first(self, worker: int) -> None:
        """The context at step 0, from the seed."""
        from torchtide.elastic.data import stream_seed

        self._load_buffers(None)
        seed_all(stream_seed(self._seed, "worker", worker))

    def load(self, slot: Slot) -> None:
        """The context as `save` left it."""
        self._load_buffers(slot)
        torch.set_rng_state(slot.torch_state)
        *words, has_gauss, gauss = _PYTHON.unpack_from(slot.view, _PYTHON_AT)
        random.setstate((3, tuple(words), gauss if has_gauss else None))
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            key, position, has_gauss, gauss = _NUMPY.unpack_from(slot.view, _NUMPY_AT)
            keys = numpy.frombuffer(key, dtype=numpy.uint32)
            numpy.random.set_state(("MT19937", keys, position, int(has_gauss), gauss))

    def save(self, slot: Slot, before: Slot | None) -> None:
        """Writes the context of this moment; `before` is what was loaded (None: the first)."""
        slot.torch_state.copy_(torch.get_rng_state())
        _, words, gauss = random.getstate()
        _PYTHON.pack_into(slot.view, _PYTHON_AT, *words, gauss is not None, gauss or 0.0)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            _, keys, position, has_gauss, gauss = numpy.random.get_state()
            _NUMPY.pack_into(slot.view, _NUMPY_AT, keys.tobytes(), position, bool(has_gauss), gauss)
        for index, buffer in enumerate(self.buffers):
            known = before is not None and bool(before.changed[index])
            changed = known or not _same_bits(buffer, self._initial[index])
            slot.changed[index] = changed
            if changed:
                slot.buffers[index].copy_(buffer)

    def _load_buffers(self, slot: Slot | None) -> None:
        # Contents are compared: batch_norm writes its statistics without a new `_version`.
        with torch.no_grad():
            for index, buffer in enumerate(self.buffers):
                if slot is not None and slot.changed[index]:
                    buffer.copy_(slot.buffers[index])
                elif not _same_bits(buffer, self._initial[index]):
                    buffer.copy_(self._initial[index])

    @staticmethod
    def digest(slot: Slot, into: Any) -> None:
        """Adds everything that counts to a hash."""
        into.update(slot.view[: _NUMPY_AT + _NUMPY.size])
        into.update(slot.changed.numpy().tobytes())
        into.update(slot.extra)
        for changed, buffer in zip(slot.changed, slot.buffers, strict=True):
            if changed:
                into.update(tensor_bytes(buffer))


def tensors_digest(tensors: Sequence[torch.Tensor]) -> str:
    """SHA-256 of tensors, one after the other."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor_bytes(tensor))
    return found.hexdigest()


_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal as bits: NaN equals itself, and 0 is not -0."""
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    kind = _INTEGERS[one.element_size()]
    return torch.equal(one.detach().view(kind), other.view(kind))


def _aligned(size: int) -> int:
    return -(-size // 64) * 64
