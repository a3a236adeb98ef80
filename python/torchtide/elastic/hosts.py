"""The exchange of processes on one or several hosts that a launcher such as torchrun connects.

The same partial sums and the same additions as through shared memory, so the same bits; they travel
by torch.distributed (Gloo). The number of processes is that of the launcher: when it changes, or a
process or host is lost, all processes end, the launcher starts others, and they go on from the
checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import time
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from torchtide import _core
from torchtide.errors import OptionError, ResizeAborted

#: How often rank 0 looks for processes that have come.
_MEETING_TICK: Final = timedelta(milliseconds=50)
#: What travels at a time: long enough that a message costs little, short enough that sums begin
#: early. A multiple of the alignment of shards.
_PIECE_BYTES: Final = 4 << 20


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
        self._group: Any = None
        if self._ours:
            _join(self._deadline)
        elif dist.get_backend() != "gloo":
            self._group = dist.new_group(backend="gloo", timeout=self._deadline)
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        if self._size > workers:
            raise OptionError(
                f"{workers} logical workers cannot occupy {self._size} processes",
                asked="join the elastic job",
                advice=f"start at most {workers} processes, or give the job more workers",
            )
        self._inner = _core.ElasticExchange(workers, sizes, context_bytes)
        self._inner.assign(self._rank, self._size)
        self._workers = workers
        self._ranges = [range(*pair) for pair in _core.elastic_plan(workers, self._size)[0]]
        self._others = [rank for rank in range(self._size) if rank != self._rank]
        self._has_state, self._state = self._rank == 0, bytearray()
        self._times = (0.0, 0.0)
        self._summed = 0.0
        self._left = False

    def attach(self, descriptor: int, contract: str) -> str:
        """The contract of rank 0. There is no descriptor here."""
        del descriptor
        return bytes(self._broadcast(bytearray(contract.encode()))).decode()

    def bound(self, low: int, high: int) -> None:
        """Raises OptionError when the script wants another number of processes."""
        if not low <= self._size <= high:
            raise OptionError(
                f"the script wants {low} to {high} processes, the launcher has {self._size}",
                asked="join the elastic job",
                advice="change --nproc-per-node and --nnodes, or processes=",
            )

    def stand(self) -> bool:
        """Makes room for what arrives."""
        self._inner.stand()
        self._flat = torch.frombuffer(self._inner.gradients(), dtype=torch.uint8)
        self._shards = [self._inner.shard(rank) for rank in range(self._size)]
        self._counts = self._inner.partial_counts()
        begin, end = self._shards[self._rank]
        self._arriving = [
            torch.empty(count if rank != self._rank else 0, end - begin, dtype=torch.uint8)
            for rank, count in enumerate(self._counts)
        ]
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

    def fold(self, worker: int, addresses: list[int]) -> None:
        """Adds the gradients of the next worker."""
        self._inner.fold(worker, addresses)

    def finish(self, step: int, last: bool) -> bool:
        """Sums over all processes; also gives everyone every worker's context.

        Everything is under way at once: while a piece of the sums is added up, the next ones
        arrive and the mean of the ones before goes out.
        """
        del last
        begin = time.perf_counter()
        self._summed = 0.0
        self._guarded(lambda: self._reduce(step))
        self._times = (time.perf_counter() - begin - self._summed, self._summed)
        return True

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
            "owes_state": self._rank == 0 and self._size > 1 and not self._state,
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
        self._left = True

    def times(self) -> tuple[float, float]:
        """Seconds of the last step: on the way, summed."""
        return self._times

    # --------------------------------------------------------------------------------------------

    def _reduce(self, step: int) -> None:
        """Partial sums to who adds them up, means back to all, and the workers' contexts.

        What two processes tell each other arrives in the order in which it was sent: pieces of
        sums, then contexts, then pieces of means. Nothing is sent where nothing is awaited.
        """
        partials = self._partials()
        pieces = _pieces(*self._shards[self._rank])
        arriving = [
            [
                self._receive(part[span], rank)
                for rank in self._others
                for part in self._arriving[rank]
            ]
            for span in pieces
        ]
        notes, contexts = self._receive_contexts()
        means = [
            self._receive(self._mean(rank)[span], rank)
            for rank in self._others
            for span in _pieces(*self._shards[rank])
        ]
        sent = [
            self._send(partial[slice(*self._shards[rank])][span], rank)
            for rank in self._others
            for span in _pieces(*self._shards[rank])
            for partial in partials
        ]
        mine = self._own_contexts(step)
        sent += [self._send(mine, rank) for rank in self._others]
        for span, works in zip(pieces, arriving, strict=True):
            _wait(works)
            self._sum(partials, span)
            sent += [self._send(self._mean(self._rank)[span], rank) for rank in self._others]
        _wait(contexts)
        self._merge_contexts(step, notes)
        _wait(means + sent)

    def _partials(self) -> torch.Tensor:
        """This process's partial sums, one a row."""
        mine = torch.frombuffer(self._inner.partials(), dtype=torch.uint8)
        return mine.view(self._counts[self._rank], -1)

    def _mean(self, rank: int) -> torch.Tensor:
        """The part of the mean gradient that `rank` adds up."""
        return self._flat[slice(*self._shards[rank])]

    def _sum(self, partials: torch.Tensor, span: slice) -> None:
        """Adds up one piece of this process's shard."""
        start = time.perf_counter()
        begin = self._shards[self._rank][0]
        addresses = []
        for rank in range(self._size):
            if rank == self._rank:
                addresses += [partial.data_ptr() + begin for partial in partials]
            else:
                addresses += [part.data_ptr() for part in self._arriving[rank]]
        self._inner.sum_shard(addresses, span.start, span.stop)
        self._summed += time.perf_counter() - start

    def _own_contexts(self, step: int) -> torch.Tensor:
        """Marks of used parameters and the contexts that the step has left, of own workers."""
        marks = torch.frombuffer(bytearray(self._inner.used()), dtype=torch.uint8)
        return torch.cat([marks, *self._contexts(step + 1, self._ranges[self._rank])])

    def _receive_contexts(self) -> tuple[dict[int, torch.Tensor], list[Any]]:
        """Room for the others' marks and contexts, and what to wait for."""
        marks, size = len(self._inner.used()), self._contexts(0, range(1))[0].numel()
        notes = {
            rank: torch.empty(marks + size * len(self._ranges[rank]), dtype=torch.uint8)
            for rank in self._others
        }
        return notes, [self._receive(note, rank) for rank, note in notes.items()]

    def _merge_contexts(self, step: int, notes: dict[int, torch.Tensor]) -> None:
        marks, size = len(self._inner.used()), self._contexts(0, range(1))[0].numel()
        for rank, found in notes.items():
            self._inner.merge_used(found[:marks].numpy().tobytes())
            places = self._contexts(step + 1, self._ranges[rank])
            for place, context in zip(places, torch.split(found[marks:], size), strict=True):
                place.copy_(context)

    def _contexts(self, step: int, workers: range) -> list[torch.Tensor]:
        return [
            torch.frombuffer(self._inner.context(step, worker), dtype=torch.uint8)
            for worker in workers
        ]

    def _broadcast_contexts(self, step: int) -> None:
        for context in self._contexts(step, range(self._workers)):
            self._guarded(lambda context=context: dist.broadcast(context, 0, group=self._group))

    def _broadcast(self, data: bytearray) -> bytearray:
        """Rank 0's bytes."""
        size = torch.tensor([len(data)])
        self._guarded(lambda: dist.broadcast(size, 0, group=self._group))
        found = data if self._rank == 0 else bytearray(int(size))
        whole = torch.frombuffer(found, dtype=torch.uint8)
        self._guarded(lambda: dist.broadcast(whole, 0, group=self._group))
        return found

    def _send(self, tensor: torch.Tensor, rank: int) -> Any:
        return dist.isend(tensor, rank, group=self._group)

    def _receive(self, tensor: torch.Tensor, rank: int) -> Any:
        return dist.irecv(tensor, rank, group=self._group)

    def _guarded(self, move: Any) -> None:
        try:
            move()
        except RuntimeError as error:
            raise ResizeAborted(
                f"a process of the job cannot be reached any more ({error})",
                asked="exchange gradients",
                advice="the launcher starts the job again; run.load goes on from its checkpoint",
            ) from error


def _pieces(begin: int, end: int) -> list[slice]:
    """Equal parts of a shard, the last one shorter; of [0, end - begin)."""
    return [
        slice(low, min(low + _PIECE_BYTES, end - begin))
        for low in range(0, end - begin, _PIECE_BYTES)
    ]


def _wait(works: list[Any]) -> None:
    for work in works:
        work.wait()


__all__ = ["HostsExchange", "launched"]
