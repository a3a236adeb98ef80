"""Sums over the processes of torch.distributed, piece by piece, while backward still runs.

The flat gradients are cut into pieces; each belongs to one process, in turns, which adds up what
all have of it and sends the mean back. A piece is on its way as soon as the gradients in it have
been folded. Receiving, adding and sending on are a thread's work: the additions are those of one
order whoever is late, so when they happen changes no bits.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist

from torchtide.errors import OptionError

#: Pieces of one process's part: enough that sums begin early, and a message costs little beside
#: its bytes.
_PIECES: Final = 8
_PIECE_BYTES: Final = range(256 << 10, (4 << 20) + 1)
#: Where gradients and pieces begin; as in csrc/elastic/reducer.h.
_ALIGNMENT: Final = 64
#: Tag of what is no piece.
_NOTE: Final = 0
#: Steps before a trial, of either way in it, and from one trial to the next.
_WARM_STEPS: Final = 2
_TRIED_STEPS: Final = 8
_LOOK_AGAIN_STEPS: Final = 2000
#: For a thread whose step is given up.
_GIVEN_UP_S: Final = 1.0


class Pieces:
    """How the flat gradients are cut, and which piece each gradient lies in."""

    def __init__(self, total: int, places: Sequence[tuple[int, int]], processes: int) -> None:
        """`places` are the first byte and the number of bytes of each array."""
        wanted = max(total // (processes * _PIECES), _PIECE_BYTES.start)
        size = min(wanted, _PIECE_BYTES.stop - 1) // _ALIGNMENT * _ALIGNMENT
        self.spans = [slice(at, min(at + size, total)) for at in range(0, total, size)]
        self.of_array = [
            range(at // size, -(-(at + nbytes) // size)) if nbytes else range(0)
            for at, nbytes in places
        ]
        self.arrays = [0] * len(self.spans)
        for pieces in self.of_array:
            for piece in pieces:
                self.arrays[piece] += 1
        self.processes = processes

    def owner(self, piece: int) -> int:
        """The rank that adds it up."""
        return piece % self.processes

    def bytes_of(self, rank: int) -> int:
        """Bytes of all pieces of `rank`."""
        return sum(
            span.stop - span.start
            for piece, span in enumerate(self.spans)
            if self.owner(piece) == rank
        )


class Overlap:
    """Whether gradients are to be sent during backward: what turns out to be faster.

    Where the link is slow it hides the exchange; where all cores compute it only takes time from
    them. So `auto` does both in turns, and then what had the shorter median step, until it looks
    again. Each process chooses for itself: when a gradient leaves changes no bits.
    """

    def __init__(self, mode: str) -> None:
        """`mode` is auto, on or off. Raises OptionError for anything else."""
        if mode not in ("auto", "on", "off"):
            raise OptionError("it is auto, on or off", asked=f"TIDE_ELASTIC_OVERLAP={mode}")
        self._tries = mode == "auto"
        self.early = mode == "on"
        self._steps = 0
        self._seconds: dict[bool, list[float]] = {True: [], False: []}

    def never(self) -> None:
        """A script was found to change gradients after backward."""
        self._tries = self.early = False

    def record(self, seconds: float | None) -> None:
        """The step that has just ended took so long; None: nobody knows."""
        if not self._tries:
            return
        place = self._steps % _LOOK_AGAIN_STEPS - _WARM_STEPS
        self._steps += 1
        if 0 <= place < 2 * _TRIED_STEPS and seconds is not None:
            self._seconds[self.early].append(seconds)
        if place + 1 < 2 * _TRIED_STEPS:
            self.early = place + 1 >= 0 and place % 2 == 0
        elif place + 1 == 2 * _TRIED_STEPS:
            early, late = (statistics.median(self._seconds[how] or [0.0]) for how in (True, False))
            self.early = early < late
            self._seconds = {True: [], False: []}


class Link:
    """Sends and receives by torch.distributed; a pair of ranks tells messages apart by tags."""

    def __init__(self, group: Any) -> None:
        """`group` is None for the default group."""
        self._group = group
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.others = [rank for rank in range(self.size) if rank != self.rank]

    def send(self, tensor: torch.Tensor, rank: int, tag: int = _NOTE) -> Any:
        """Begins to send; `wait` of what it returns ends it."""
        return dist.isend(tensor, rank, group=self._group, tag=tag)

    def receive(self, tensor: torch.Tensor, rank: int, tag: int = _NOTE) -> Any:
        """Begins to receive; `wait` of what it returns ends it."""
        return dist.irecv(tensor, rank, group=self._group, tag=tag)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Rank 0's values to all."""
        dist.broadcast(tensor, 0, group=self._group)


class Reduction:
    """The sums of one step after the other. `begin`, `folded` for each array, `finish`."""

    def __init__(self, link: Link, inner: Any, pieces: Pieces) -> None:
        """`inner` is the exchange whose partial sums travel."""
        self._link, self._inner, self._pieces = link, inner, pieces
        self._flat = torch.frombuffer(inner.gradients(), dtype=torch.uint8)
        self._counts: list[int] = inner.partial_counts()
        room = pieces.bytes_of(link.rank)
        self._arriving = [
            torch.empty(count if rank != link.rank else 0, room, dtype=torch.uint8)
            for rank, count in enumerate(self._counts)
        ]
        self._own = [i for i in range(len(pieces.spans)) if pieces.owner(i) == link.rank]
        self.summed_s = 0.0
        self.busy = False
        self._ready: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Lets the others' pieces arrive. After the last worker of this process was pushed."""
        mine = torch.frombuffer(self._inner.partials(), dtype=torch.uint8)
        self._partials = mine.view(self._counts[self._link.rank], -1)
        self._left = list(self._pieces.arrays)
        self._sent: list[Any] = []
        self._passed_on: list[Any] = []  # the thread's
        self._arrivals = {piece: self._receive_partials(piece) for piece in self._own}
        self._means = [
            self._link.receive(self._flat[span], self._pieces.owner(piece), self._tag(piece))
            for piece, span in enumerate(self._pieces.spans)
            if self._pieces.owner(piece) != self._link.rank
        ]
        self.summed_s = 0.0
        self.busy = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="tide-sums", daemon=True)
            self._thread.start()
        for piece, arrays in enumerate(self._left):
            if arrays == 0:  # nothing but the space between two gradients
                self._offer(piece)

    def folded(self, array: int) -> None:
        """The gradient of `array` is in this process's partial sums for good."""
        for piece in self._pieces.of_array[array]:
            self._left[piece] -= 1
            if self._left[piece] == 0:
                self._offer(piece)

    def finish(self) -> None:
        """Waits until all means are there, and nobody reads this process's sums any more."""
        self._ready.put(None)
        error = self._done.get()
        self.busy = False
        if error is not None:
            raise error
        for work in self._means + self._sent + self._passed_on:
            work.wait()

    def close(self) -> None:
        """Ends the thread. In the middle of a step it ends when its connections have closed."""
        if self._thread is not None:
            self._ready.put(-1)
            self._thread.join(_GIVEN_UP_S if self.busy else None)
        self._thread = None

    # --------------------------------------------------------------------------------------------

    def _tag(self, piece: int, partial: int = -1) -> int:
        """Of a partial sum of a piece, or of its mean."""
        return 1 + piece * (max(self._counts) + 1) + partial + 1

    def _place(self, piece: int) -> slice:
        """Where a piece of this process lies among the pieces of this process."""
        size = self._pieces.spans[0].stop
        span = self._pieces.spans[piece]
        begin = piece // self._pieces.processes * size
        return slice(begin, begin + span.stop - span.start)

    def _receive_partials(self, piece: int) -> list[Any]:
        place = self._place(piece)
        return [
            self._link.receive(part[place], rank, self._tag(piece, index))
            for rank in self._link.others
            for index, part in enumerate(self._arriving[rank])
        ]

    def _offer(self, piece: int) -> None:
        """This process's sums of a piece go to whoever adds it up."""
        owner = self._pieces.owner(piece)
        if owner == self._link.rank:
            self._ready.put(piece)
            return
        span = self._pieces.spans[piece]
        self._sent += [
            self._link.send(partial[span], owner, self._tag(piece, index))
            for index, partial in enumerate(self._partials)
        ]

    def _serve(self) -> None:
        """The thread: one step after the other."""
        while self._one_step(self._ready.get):
            pass

    def _one_step(self, take: Callable[[], int | None]) -> bool:
        error: BaseException | None = None
        while (piece := take()) is not None:
            if piece < 0:
                return False
            if error is not None:
                continue  # the step is lost; its end is awaited
            try:
                self._sum(piece)
            except BaseException as caught:  # the other thread raises it
                error = caught
        self._done.put(error)
        return True

    def _sum(self, piece: int) -> None:
        """Adds up one piece when all have sent it, and sends its mean."""
        for work in self._arrivals[piece]:
            work.wait()
        begin = time.perf_counter()
        span, place = self._pieces.spans[piece], self._place(piece)
        addresses = []
        for rank, parts in enumerate(self._arriving):
            if rank == self._link.rank:
                addresses += [part.data_ptr() + span.start for part in self._partials]
            else:
                addresses += [part.data_ptr() + place.start for part in parts]
        self._inner.sum_piece(addresses, span.start, span.stop)
        self.summed_s += time.perf_counter() - begin
        mean = self._flat[span]
        self._passed_on += [
            self._link.send(mean, rank, self._tag(piece)) for rank in self._link.others
        ]


__all__ = ["Link", "Pieces", "Reduction"]
