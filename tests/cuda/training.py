"""A training loop on the phantom GPU that looks after itself: bytes, figures and limits each step.

Kernels of the phantom do nothing. So whatever is put on the device stays as it is, and every
parameter and every state of the optimizer must be what it was, to the byte, after each move.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torchtide
import torchtide.cuda as cuda
import training_models
from torchtide import _core

MIB = 1 << 20
_PATTERN_BYTES = 16 * MIB
_CHUNK = 4 * MIB
_PIECE = 4096
_WHOLE_BYTES = MIB // 2


def ledger(device: int = 0) -> dict[str, int]:
    """The phantom's own book of a device, in bytes."""
    figures = (ctypes.c_uint64 * 5)()
    ctypes.CDLL("libcuda.so.1").phantomLedger(device, figures)
    return dict(zip(("capacity", "used", "peak", "refused", "held_here"), figures, strict=True))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """As torch.equal, which compares single bytes eight times as slowly as words."""
    words = len(a) & ~7
    equal = torch.equal(a[:words].view(torch.int64), b[:words].view(torch.int64))
    return equal and torch.equal(a[words:], b[words:])


class Kept:
    """Tensors on the device with bytes of which the host knows what they must be.

    Small ones are filled as a whole; of larger ones the begin of each page of the driver and the
    end, unless `thorough`: the phantom's untouched memory costs nothing, and so do its moves.
    """

    def __init__(self, seed: int, *, thorough: bool = False) -> None:
        self._thorough = thorough
        generator = torch.Generator().manual_seed(seed)
        self._pattern = torch.randint(
            0, 256, (_PATTERN_BYTES,), dtype=torch.uint8, generator=generator
        )
        self._buffer = torch.empty(_CHUNK, dtype=torch.uint8)
        self._tensors: list[tuple[torch.Tensor, bool]] = []

    def add(self, tensor: torch.Tensor, *, whole: bool = False) -> None:
        """Fills the tensor's storage; it must stay so from now on."""
        self._tensors.append((tensor, whole or self._thorough))
        for piece, expected in self._pieces(len(self._tensors) - 1):
            piece.copy_(expected)

    def canaries(self, sizes: Sequence[int]) -> None:
        """Tensors of so many bytes that nobody else knows of, filled as a whole."""
        for size in sizes:
            self.add(torch.empty(size, dtype=torch.uint8, device="cuda"), whole=True)

    def check(self) -> None:
        """Compares what was put there."""
        for number, (tensor, _) in enumerate(self._tensors):
            for at, (piece, expected) in enumerate(self._pieces(number)):
                found = self._buffer[: len(piece)].copy_(piece)
                assert _same(found, expected), f"tensor {number}, {tensor.nbytes} bytes: piece {at}"

    def _pieces(self, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        tensor, thorough = self._tensors[number]
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        whole.set_(tensor.untyped_storage())
        size = len(whole)
        if thorough or size <= _WHOLE_BYTES:
            places = [(at, min(_CHUNK, size - at)) for at in range(0, size, _CHUNK)]
        else:  # the begin of each page of the driver, and the end
            places = [(at, min(_PIECE, size - at)) for at in range(0, size, 2 * MIB)]
            places.append((size - _PIECE, _PIECE))
        for at, length in places:
            begin = 8 * ((number * 7919 + at // _PIECE * 104729) % (_PATTERN_BYTES // 16))
            yield whole[at : at + length], self._pattern[begin : begin + length]


class _Scaler(torch.amp.GradScaler):
    """Steps whatever it reads: what was found infinite is left to chance where no kernel writes."""

    def _maybe_opt_step(
        self, optimizer: torch.optim.Optimizer, state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        for found in state["found_inf_per_device"].values():
            found.item()
        return optimizer.step(*args, **kwargs)


class Training:
    """One job: a model whose bytes are known, its optimizer, and what is done between its steps."""

    def __init__(
        self,
        kind: str,
        batch: int,
        *,
        amp: bool = False,
        seed: int = 1,
        thorough: bool = os.environ.get("TIDE_TEST_PHANTOM") == "all",
        canaries: Sequence[int] = (300, 5000, MIB + 512, 3 * MIB, 21 * MIB),
        pinned: bool = False,
        **sizes: int,
    ) -> None:
        # The stand-in of cuDNN has no plans for attention; the other ways have.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.model, self._loss, batches = training_models.make(kind, batch, **sizes)
        self.batches = (
            [tuple(t.pin_memory() for t in one) for one in batches] if pinned else batches
        )
        self.model.to_empty(device="cuda")
        self.kept = Kept(seed, thorough=thorough)
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            self.kept.add(tensor.detach())
        self.kept.canaries(canaries)
        self.net = self.model  # what is called: perhaps compiled or wrapped
        self.amp = amp
        self.scaler = _Scaler("cuda", enabled=amp)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(self.model.parameters())
            if kind in ("gpt2", "mlp")
            else torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        )
        self._known_state: set[int] = set()
        self.alone = True  # no other thread allocates, so two figures can be of one moment
        self.samples = 0
        self.on_device_max = 0

    def sample(self) -> None:
        """What must be true at any moment of an iteration."""
        figures = cuda.report()
        if self.alone:
            assert figures["reserved"] == figures["torch_reserved"], figures
        away = sum(figures[part] for part in ("host_mapped", "host_copy", "file", "lane"))
        here = figures["device"] - figures["spare"] - figures["coming"]
        assert figures["reserved"] == here + away, figures
        if figures["limit"] > 0:
            assert figures["device"] <= figures["limit"], figures
        book = ledger()
        assert book["used"] <= book["capacity"]
        # Besides our pages this process has its libraries' handles, of a few MiB, and no more.
        if self.alone:
            ours = figures["device"] + figures["lane_chunks"]
            assert 0 <= book["held_here"] - ours <= 64 * MIB, (book, figures)
        self.samples += 1
        self.on_device_max = max(self.on_device_max, figures["device"])

    def step(self, batch: training_models.Batch) -> None:
        """Forward, backward, optimizer; sampled in between."""
        inputs = tuple(tensor.cuda(non_blocking=True) for tensor in batch)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.amp):
            loss = self._loss(self.net, inputs)
        self.sample()
        self.scaler.scale(loss).backward()
        self.sample()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def remember_state(self) -> None:
        """States that the optimizer has made: no kernel has written them, so they can be ours."""
        for state in self.optimizer.state.values():
            for value in state.values():
                if torch.is_tensor(value) and value.is_cuda and id(value) not in self._known_state:
                    self._known_state.add(id(value))
                    self.kept.add(value)

    def run(self, steps: int, between: dict[int, Callable[[], object]] | None = None) -> None:
        """So many iterations; `between[i]` is done at the begin of the i-th, before its forward."""
        for number in torchtide.iterations(range(steps)):
            if between and number in between:
                between[number]()
            self.step(self.batches[number % len(self.batches)])
            if number == 0:
                self.remember_state()
                assert self.optimizer.state
            self.sample()

    def end(self, *, others: bool = False) -> None:
        """Every byte, then everything freed: nothing of ours is left on the device.

        `others` may still have memory there.
        """
        self.kept.check()
        _core.cuda_validate()
        self.__dict__.clear()
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        _core.cuda_make_room(0, 1 << 40)  # what is cached and what is spare
        figures = cuda.report()
        assert torch.cuda.memory_allocated() == 0, torch.cuda.memory_summary()
        assert figures["reserved"] == torch.cuda.memory_reserved() == 0, figures
        assert figures["device"] == 0, figures
        assert others or figures["used_by_jobs"] == 0, figures
        assert ledger()["held_here"] <= 64 * MIB  # the libraries' own
        _core.cuda_validate()


@contextlib.contextmanager
def paused(left: int = 0) -> Iterator[None]:
    """A pause that the next boundary obeys; a thread sees the device and resumes the job.

    `left` bytes stay there, and no more.
    """
    seen: list[object] = []
    held = threading.Event()
    gate = torchtide.runtime.GATE
    gate.on_held = lambda on: held.set() if on else None

    def resume() -> None:
        if not held.wait(120):
            seen.append("the job was not held")
        else:
            seen.append(_core.cuda_report(0)["device"])
        torchtide.resume()

    thread = threading.Thread(target=resume)
    torchtide.pause()
    thread.start()
    yield
    thread.join()
    gate.on_held = None
    assert seen == [left], f"on the device while paused: {seen}"
