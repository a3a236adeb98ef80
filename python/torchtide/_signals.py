"""Signals of a scheduler turned into orders: `tide run --on-signal USR1=pause`, `tide.on_save`.

A cluster announces that it takes a machine away by a signal. The job answers at its next boundary,
between two steps. Ranks of one job agree on the step through the store of torch.distributed: a rank
that stopped one step before the others would leave them in a collective for ever.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, TypeVar

from torchtide import _core, _notice
from torchtide._gate import GATE
from torchtide._signal_words import (
    END,
    PAUSE,
    RESUME,
    VARIABLE,
    WORDS,
    WRITING,
    number_of,
    parse,
)

_LOG = logging.getLogger("torchtide")
_F = TypeVar("_F", bound=Callable[[], Any])

_SAVERS: list[Callable[[], Any]] = []


def on_save(function: _F) -> _F:
    """Registers what writes a checkpoint when a signal asks for one; usable as a decorator.

    It is called between two steps, on the thread that trains, when `tide run --on-signal` maps a
    signal to `save` or `save-and-end`. Several are called in the order of registration.

    Args:
        function: takes nothing; what it returns is not looked at.

    Returns:
        `function`, unchanged.
    """
    _SAVERS.append(function)
    return function


class Agreement:
    """Ranks of one job settle on one step, through the store that they met in.

    Rank 0 decides, at its boundary after `done` steps, that all act at the boundary after
    `done + 1`. Each step has a collective that needs rank 0, so no rank gets there without the
    decision being in the store.
    """

    def __init__(self, store: Any, rank: int) -> None:
        self._store = store
        self._rank = rank
        self._number = 1
        self._due: tuple[int, str] | None = None
        self._wished = False

    def settle(self, wish: str, done: int) -> str:
        """The action that is due at this boundary, else empty.

        Args:
            wish: what this rank was asked for since the last action, or empty.
            done: optimizer steps so far, the same in all ranks.
        """
        decision = f"torchtide/signal/{self._number}"
        if self._due is None:
            if self._rank == 0:
                wish = wish or self._read(f"{decision}/wish")
                if wish:
                    self._due = done + 1, wish
                    self._store.set(decision, f"{done + 1} {wish}")
                    self._store.check([decision])  # an answer: the server has it
                    return ""
            else:
                if wish and not self._wished:
                    self._wished = True
                    self._store.set(f"{decision}/wish", wish)
                found = self._read(decision)
                if found:
                    step, action = found.split(" ", 1)
                    self._due = int(step), action
        if self._due is None or done < self._due[0]:
            return ""
        action, self._due, self._wished = self._due[1], None, False
        self._number += 1
        return action

    def _read(self, key: str) -> str:
        return str(self._store.get(key).decode()) if self._store.check([key]) else ""


class Signals:
    """What this process does on which signal."""

    def __init__(self, actions: Mapping[str, str]) -> None:
        self._actions = {number_of(name): action for name, action in actions.items()}
        self._before: dict[int, Any] = {}
        self._wish = ""  # asked for and not yet done; at the boundary
        self._sign = 0  # the signal of the last wish
        self._due = ""  # what the iteration that begins has to do first
        self._cancelled = False  # a pause was taken back before it was due
        self._agreement: Agreement | None = None
        self._looked = False

    def install(self) -> None:
        """Sets the handlers. Raises ValueError outside of the main thread."""
        for number in self._actions:
            self._before[number] = signal.signal(number, self.handle)
        os.register_at_fork(after_in_child=self.leave_to_parent)
        if signal.SIGTERM in self._actions:
            _spare_loader_workers()
        GATE.before_begin = self.before_begin
        GATE.after_begin = self.after_begin

    def leave_to_parent(self) -> None:
        """In a forked child, such as a worker of a loader: it is no job, and ignores the words."""
        for number, before in self._before.items():
            if signal.getsignal(number) != self.handle:
                continue
            word = signal.Signals(number).name.removeprefix("SIG") in WORDS
            signal.signal(number, signal.SIG_IGN if word else before)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Runs between two instructions of Python, or while the next turn is waited for."""
        action = self._actions[number]
        _LOG.info("event=signal number=%d action=%s", number, action)
        if action == RESUME:
            self._cancelled = self._wish == PAUSE
            self._wish = "" if self._cancelled else self._wish
            _core.resume(False)
            return
        if action == END and (self._wish == END or not GATE.begun):
            self._as_before(number, frame)  # nothing to save yet, or asked a second time
            return
        if action == PAUSE:
            self._cancelled = False
            if self._wish in WRITING:
                return  # the job is about to end, or to write
            if not has_peers():
                _core.suspend(False)
                return
            if _core.report()["suspended"]:
                return
        self._wish, self._sign = action, number
        if action != PAUSE:
            _core.resume(False)  # a paused job comes back to write

    def _as_before(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if callable(before):
            before(number, frame)
        elif before != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def before_begin(self, done: int) -> None:
        """Before an iteration waits for its turn; `done` are the optimizer steps so far."""
        if not self._looked:
            self._looked = True
            self._tell_replaced()
        if not has_peers():
            self._due, self._wish = self._wish, ""
            return
        if self._agreement is None:
            self._agreement = _agreement()
        wish = f"{self._wish} {self._sign}" if self._wish else ""
        settled = self._agreement.settle(wish, done)
        if not settled:
            return
        due, _, sign = settled.partition(" ")
        self._wish, self._sign = "", int(sign)
        if due == PAUSE:
            if not self._cancelled:
                _core.suspend(False)
            self._cancelled = False
        else:
            self._due = due

    def after_begin(self) -> None:
        """The turn is here and all memory is back: writes what has to be written."""
        if not self._due:  # asked for while the turn was waited for: soon enough, the same boundary
            if not self._wish or has_peers():
                return
            self._due, self._wish = self._wish, ""
        action, self._due = self._due, ""
        name = signal.Signals(self._sign).name
        begin = time.monotonic()
        if not _SAVERS:
            _notice.say(f"{name}: nothing is saved, no function was given to tide.on_save")
        try:
            for saver in _SAVERS:
                saver()
        except Exception as error:
            if action == END:
                raise  # the job ends as it has to, and says why nothing was saved
            _LOG.warning("torchtide: %s: not saved, the job goes on: %r", name, error)
            return
        took_s = time.monotonic() - begin
        if _SAVERS:
            _notice.say(f"{name}: saved in {took_s:.1f} s")
        if action == END:
            _notice.say(f"{_core.name()} ends between two steps, as asked by --on-signal")
            raise SystemExit(128 + self._sign)

    def _tell_replaced(self) -> None:
        for number, action in self._actions.items():
            if signal.getsignal(number) != self.handle:
                name = signal.Signals(number).name
                _notice.say(f"the program handles {name} itself; it does not {action}")


def _spare_loader_workers() -> None:
    """Forked workers of a DataLoader die of their parent's SIGTERM only.

    A scheduler sends it to all processes of a job. A worker that dies of it ends the training by an
    error before the next boundary, where the job would have been saved.
    """
    import torch.utils.data._utils.signal_handling

    signal_handling: Any = torch.utils.data._utils.signal_handling

    as_torch_has_it = signal_handling._set_worker_signal_handlers

    def set_handlers(*arguments: Any) -> None:
        as_torch_has_it(*arguments)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_parents_word, args=(os.getppid(),), daemon=True).start()

    signal_handling._set_worker_signal_handlers = set_handlers


def _await_parents_word(parent: int) -> None:
    """Ends this worker when `parent` says so, as torch's own handler does."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def has_peers() -> bool:
    """Whether this process is one of several ranks that step together."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size()) > 1
    return False


def _agreement() -> Agreement:
    from torch.distributed import distributed_c10d

    return Agreement(distributed_c10d._get_default_store(), distributed_c10d.get_rank())


def install() -> None:
    """Sets the handlers that the environment asks for; a process of an elastic job sets none.

    There the launcher is told, and tells all processes to stop before the same step.

    Raises:
        OptionError: The variable makes no sense.
    """
    text = os.environ.get(VARIABLE, "")
    actions = parse(text, f"{VARIABLE}={text}")
    if not actions or os.environ.get("TIDE_ELASTIC_FD"):
        return
    try:
        Signals(actions).install()
    except ValueError:
        _LOG.warning(
            "torchtide: %s is not followed: the job was not started on the main thread", VARIABLE
        )
