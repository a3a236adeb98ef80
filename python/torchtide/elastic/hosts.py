"""The exchange of processes on one or several hosts that a launcher such as torchrun connects.

The same partial sums and the same additions as through shared memory, so the same bits; they travel
by torch.distributed (Gloo). The number of processes is that of the launcher: when it changes, or a
process or host is lost, all processes end, the launcher starts others, and they go on from the
checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from torchtide import _core
from torchtide.elastic.reduction import Link, Overlap, Pieces, Reduction
from torchtide.errors import OptionError, ResizeAborted

#: How often rank 0 looks for processes that have come.
_MEETING_TICK: Final = timedelta(milliseconds=50)
#: Of the element types of csrc/elastic/kernels.h.
_ELEMENT_BYTES: Final = {0: 4, 1: 2, 2: 8}
_LOG = logging.getLogger("torchtide")


def launched() -> bool:
    """Whether torchrun, or a launcher like it, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or dist.is_initialized()


def _join(deadline: timedelta) -> None:
    """Makes the process group of a launcher's environment.

    The launcher's store outlives a restart, with the addresses of processes that are gone. So each
    set of processes meets under a name of its own.
    """
    given, rank, size = next(iter(rendezvous("env://", timeout=deadline)))
    store = PrefixStore("torchtide", given)
    meeting = _meet(store, rank, size, deadline)
    dist.init_process_group(
        "gloo",
        store=PrefixStore(meeting, store),
        rank=rank,
        world_size=size,
        timeout=deadline,
    )


def _meet(store: Any, rank: int, size: int, deadline: timedelta) -> str:
    """A name that all living processes agree on, whatever earlier ones have left in the store.

    Each process leaves a number of its own; rank 0 answers every number that it finds until all
    have confirmed the answer. A number of a dead process is answered too, and nobody reads that.
    """
    own = os.urandom(8).hex()
    if rank != 0:
        store.set(f"hello/{rank}", own)
        store.wait([f"welcome/{rank}/{own}"], deadline)
        meeting: str = store.get(f"welcome/{rank}/{own}").decode()
        store.set(f"here/{meeting}/{rank}", "1")
        return meeting
    missing = set(range(1, size))
    end = time.monotonic() + deadline.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"here/{own}/{other}"]):
                missing.discard(other)
            elif store.check([f"hello/{other}"]):
                number = store.get(f"hello/{other}").decode()
                store.set(f"welcome/{other}/{number}", own)
        if missing and time.monotonic() > end:
            raise ResizeAborted(
                f"ranks {sorted(missing)} have not come within {deadline}",
                asked="join the elastic job",
            )
        if missing:
            with contextlib.suppress(RuntimeError):  # what it raises after the time
                store.wait([f"here/{own}/{min(missing)}"], _MEETING_TICK)
    return own


class HostsExchange:
    """Stands in for `_core.ElasticExchange`; see there for what each function means."""

    def __init__(self, workers: int, sizes: list[tuple[int, int]], context_bytes: int) -> None:
        """Joins the process group, or makes one of the launcher's environment."""
        self._deadline = timedelta(milliseconds=int(_core.get_option("elastic.deadline_ms")))
        self._ours = not dist.is_initialized()
        group: Any = None
        if self._ours:
            _join(self._deadline)
        elif dist.get_backend() != "gloo":
            group = dist.new_group(backend="gloo", timeout=self._deadline)
        self._link = Link(group)
        rank, size = self._link.rank, self._link.size
        if size > workers:
            raise OptionError(
                f"{workers} logical workers cannot occupy {size} processes",
                asked="join the elastic job",
                advice=f"start at most {workers} processes, or give the job more workers",
            )
        self._inner = _core.ElasticExchange(workers, sizes, context_bytes)
        self._inner.assign(rank, size)
        self._workers, self._sizes = workers, sizes
        self._ranges = [range(*pair) for pair in _core.elastic_plan(workers, size)[0]]
        self._reduction: Reduction
        self._overlap = Overlap(_core.get_option("elastic.overlap"))
        self._ended = 0.0
        self._changed = False
        self._has_state, self._state = rank == 0, bytearray()
        self._times = (0.0, 0.0)
        self._left = False

    def attach(self, descriptor: int, contract: str) -> str:
        """The contract of rank 0. There is no descriptor here."""
        del descriptor
        return bytes(self._broadcast(bytearray(contract.encode()))).decode()

    def bound(self, low: int, high: int) -> None:
        """Raises OptionError when the script wants another number of processes."""
        if not low <= self._link.size <= high:
            raise OptionError(
                f"the script wants {low} to {high} processes, the launcher has {self._link.size}",
                asked="join the elastic job",
                advice="change --nproc-per-node and --nnodes, or processes=",
            )

    def stand(self) -> bool:
        """Makes room for what arrives."""
        self._inner.stand()
        offsets = self._inner.offsets()
        places = [
            (at, count * _ELEMENT_BYTES[kind])
            for at, (kind, count) in zip(offsets, self._sizes, strict=True)
        ]
        pieces = Pieces(len(self._inner.gradients()), places, self._link.size)
        self._reduction = Reduction(self._link, self._inner, pieces)
        return True

    def started_at(self, base: int) -> None:
        """Nobody watches from outside."""

    def advance(self, step: int) -> bool:
        """The processes stay the same."""
        del step
        return True

    def begin(self, step: int) -> None:
        """Starts the sums of a step."""
        self._inner.begin(step)

    @property
    def overlaps(self) -> bool:
        """Whether to call `push` and `fold_one`, which send what is folded, during backward."""
        return self._link.size > 1 and self._overlap.early

    def fold(self, worker: int, addresses: list[int]) -> None:
        """Adds the gradients of the next worker."""
        self._inner.fold(worker, addresses)

    def push(self, worker: int) -> None:
        """The next worker is this process's last one: its gradients come one by one."""
        self._inner.push(worker)
        self._guarded(self._reduction.begin)

    def fold_one(self, array: int, address: int) -> None:
        """One gradient of the worker that was pushed; it may be on its way from now on."""
        self._inner.fold_one(array, address)
        self._guarded(lambda: self._reduction.folded(array))

    def finish(self, step: int, last: bool) -> bool:
        """Sums over all processes; also gives everyone every worker's context.

        Returns:
            False when some process has changed a gradient that was on its way already: all repeat
            the step, and from now on gradients leave when `run.step` says so.
        """
        del last
        begin = time.perf_counter()
        changed = False

        def exchange() -> None:
            nonlocal changed
            if not self._reduction.busy:
                self._reduction.begin()
                for array in range(len(self._sizes)):
                    self._reduction.folded(array)
            changed = self._exchange_contexts(step)
            self._reduction.finish()

        self._guarded(exchange)
        now = time.perf_counter()
        self._overlap.record(now - self._ended if self._ended else None)
        self._ended = now
        self._times = (now - begin, self._reduction.summed_s)
        self._changed = False
        if changed:
            self._overlap.never()
            _LOG.warning(
                "event=elastic_step_repeated text=%r",
                "a gradient was changed between run.backward and run.step, when it had been sent; "
                "gradients are not sent during backward any more (TIDE_ELASTIC_OVERLAP=off says "
                "so from the beginning)",
            )
        return not changed

    def fold_changed(self) -> None:
        """A gradient that `fold_one` took is another one by now: this step cannot count."""
        self._changed = True

    def gradients(self) -> memoryview:
        """The mean gradient."""
        return self._inner.gradients()

    def offsets(self) -> list[int]:
        """Where each parameter's gradient begins."""
        return self._inner.offsets()

    def used(self) -> bytes:
        """A mark for each parameter that any worker used."""
        return self._inner.used()

    def context(self, step: int, worker: int) -> memoryview:
        """A logical worker's context before `step`."""
        return self._inner.context(step, worker)

    def place(self) -> dict[str, Any]:
        """Who this process is."""
        place: dict[str, Any] = self._inner.place()
        return place | {
            "generation": int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
            "needs_state": not self._has_state,
            "owes_state": self._link.rank == 0 and self._link.size > 1 and not self._state,
        }

    def await_state(self, step: int) -> bool:
        """Takes the state and the contexts of the first step from rank 0."""
        self._state = self._broadcast(bytearray())
        self._broadcast_contexts(step)
        return True

    def state(self, size: int = 0) -> memoryview:
        """The state that has arrived, or room for one of `size` bytes."""
        if size:
            self._state = bytearray(size)
        return memoryview(self._state)

    def state_done(self, size: int = 0) -> None:
        """The state was read, or, with `size`, is written."""
        if size:
            self._broadcast(self._state)
            self._broadcast_contexts(0)
            self._state = bytearray(1)  # told once
        self._has_state = True

    def leave(self, over: bool) -> None:
        """Lets the others know at once: their connections to this process close."""
        del over
        if self._ours and not self._left and dist.is_initialized():
            dist.destroy_process_group()
        if not self._left and hasattr(self, "_reduction"):
            self._reduction.close()
        self._left = True

    def times(self) -> tuple[float, float]:
        """Seconds of the last step: after backward, and added up meanwhile or before."""
        return self._times

    # --------------------------------------------------------------------------------------------

    def _exchange_contexts(self, step: int) -> bool:
        """Marks of used parameters and all workers' contexts; whether a step is to be repeated."""
        marks = bytearray([self._changed]) + self._inner.used()
        own = self._ranges[self._link.rank]
        mine = torch.cat(
            [torch.frombuffer(marks, dtype=torch.uint8), *self._contexts(step + 1, own)]
        )
        size = self._contexts(0, range(1))[0].numel()
        notes = {
            rank: torch.empty(len(marks) + size * len(self._ranges[rank]), dtype=torch.uint8)
            for rank in self._link.others
        }
        works = [self._link.receive(note, rank) for rank, note in notes.items()]
        works += [self._link.send(mine, rank) for rank in self._link.others]
        for work in works:
            work.wait()
        changed = self._changed
        for rank, found in notes.items():
            changed = changed or bool(found[0])
            self._inner.merge_used(found[1 : len(marks)].numpy().tobytes())
            places = self._contexts(step + 1, self._ranges[rank])
            for place, context in zip(places, torch.split(found[len(marks) :], size), strict=True):
                place.copy_(context)
        return changed

    def _contexts(self, step: int, workers: range) -> list[torch.Tensor]:
        return [
            torch.frombuffer(self._inner.context(step, worker), dtype=torch.uint8)
            for worker in workers
        ]

    def _broadcast_contexts(self, step: int) -> None:
        for context in self._contexts(step, range(self._workers)):
            self._guarded(lambda context=context: self._link.broadcast(context))

    def _broadcast(self, data: bytearray) -> bytearray:
        """Rank 0's bytes."""
        size = torch.tensor([len(data)])
        self._guarded(lambda: self._link.broadcast(size))
        found = data if self._link.rank == 0 else bytearray(int(size))
        whole = torch.frombuffer(found, dtype=torch.uint8)
        self._guarded(lambda: self._link.broadcast(whole))
        return found

    def _guarded(self, move: Any) -> None:
        try:
            move()
        except RuntimeError as error:
            raise ResizeAborted(
                f"a process of the job cannot be reached any more ({error})",
                asked="exchange gradients",
                advice="the launcher starts the job again; run.load goes on from its checkpoint",
            ) from error


__all__ = ["HostsExchange", "launched"]
