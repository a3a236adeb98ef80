"""Where one iteration ends and the next begins, seen from what every training loop does.

An iteration ends with an optimizer step, but the turn is given up at the *next* forward of the
outermost module: by then gradients and outputs of the step are gone, so almost nothing has to leave
the lane. Gradient accumulation has no step and so no boundary; several optimizers that step one
after the other give one boundary. A loop that updates its weights by hand shows itself by many
backward passes without any optimizer: each of them then stands for a step.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from torchtide import _core, _notice

_EVALUATION = 1
_FIRST_TRAINING_PHASE = 2
#: So many backward passes without an optimizer's step are a loop that needs none. More than most
#: scripts accumulate before their first step; where one does, a boundary too many costs copies, no
#: value.
_BY_HAND_AFTER = 16


class _RootHook:
    """The forward pre-hook of an outermost module.

    Modules carry their hooks wherever they go, so it must be copied and saved as if it were not
    there: a copy is the hook itself, and what is saved is a builtin that passes the arguments on,
    loadable without torchtide.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __call__(self, module: Any, args: Any) -> None:
        self._gate._root_forward(module, args)

    def __deepcopy__(self, memo: Any) -> _RootHook:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, ({}, "get")


class Gate:
    """One per process; all methods run on the thread that trains, others are ignored."""

    def __init__(self) -> None:
        self.open = False  # an iteration is under way
        self.waiting = False  # for its turn, in `begin`
        self.stepped = False  # an optimizer has stepped since it began
        self.steps_seen = 0
        self.gated = (
            False  # a root's forward came before the last step: the gate is in the right place
        )
        self._forward_since_step = False
        self._forward_since_batch = False
        self.phase = _FIRST_TRAINING_PHASE
        self._notice = _notice.PauseNotice()
        self._thread: int | None = None
        self._stepped_optimizers: list[int] = []
        self._phases: dict[tuple[int, ...], int] = {}
        self._by_hand = True  # no optimizer has been seen
        self._backwards = 0  # of a process without optimizers
        self._backwards_since_forward = 0
        self._arm: Callable[[int], None] = lambda wanted: None
        self._armed = 0  # what operators are reported for
        self._root_hook = _RootHook(self)
        self._global_handle: Any = None
        self.on_first_iteration: Callable[[], None] | None = None
        #: Told each begun iteration, with the seconds of the pause before it if there was one.
        self.on_begun: Callable[[float | None], None] | None = None
        #: Told True while the next iteration waits for this process to be resumed, then False.
        self.on_held: Callable[[bool], None] | None = None
        #: Told before an iteration waits for its turn: the optimizer steps so far.
        self.before_begin: Callable[[int], None] | None = None
        #: Called when the turn is here, before anything of the iteration: may write, may raise.
        self.after_begin: Callable[[], None] | None = None
        #: Called next, by name: everything of the job is where the iteration uses it. May raise.
        self.when_begun: dict[str, Callable[[], None]] = {}
        self.begun = False  # an iteration was ever begun
        #: Steps so far where not the optimizer's count: the same in all processes of a job.
        self.steps_of_job: Callable[[], int] | None = None
        #: Called at least every 100 ms while an iteration waits for its turn.
        self.while_waiting: Callable[[], None] | None = None

    def install(self, arm: Callable[[int], None]) -> None:
        """Sets the hooks in torch; `arm` says what operators are reported for."""
        import torch
        from torch.optim import optimizer

        self._arm = arm
        self._wrap_backward()
        optimizer.register_optimizer_step_pre_hook(self._before_step)
        optimizer.register_optimizer_step_post_hook(self._after_step)
        self._look_for_root()
        self._wrap_scaler(torch.amp.GradScaler)
        self._wrap_loader()
        _let_orphans_go()

    # -- what torch tells us ---------------------------------------------------------------

    def _wrap_backward(self) -> None:
        """A loop that updates its weights by hand has no other sign; gone with the first step."""
        import torch

        backward = torch.autograd.backward

        @functools.wraps(backward)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            backward(*args, **kwargs)
            if not self._by_hand:
                if torch.autograd.backward is wrapped:
                    torch.autograd.backward = backward
            elif self._mine() and not _in_backward():
                self._after_backward()

        torch.autograd.backward = wrapped

    def _after_backward(self) -> None:
        """Stands for a step where no optimizer has been seen for long."""
        self._backwards += 1
        self._backwards_since_forward += 1
        if self._backwards <= _BY_HAND_AFTER:
            return
        self._search_unless_gated()
        if self._backwards_since_forward <= _BY_HAND_AFTER:
            self.stepped = True  # the next forward of the outermost module is the better place
        else:
            self.boundary(_FIRST_TRAINING_PHASE)  # there are no modules

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._by_hand = False

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self._mine():
            return
        self.steps_seen += 1
        again = id(optimizer) in self._stepped_optimizers
        if again and not self._forward_since_step:
            # No module's forward is to be seen (a compiled one, plain functions): the step is the
            # boundary.
            self.boundary(self._training_phase())
        self.stepped = True
        if id(optimizer) not in self._stepped_optimizers:
            self._stepped_optimizers.append(id(optimizer))
        self._search_unless_gated()

    def _search_unless_gated(self) -> None:
        """Looks for a root where none was seen before this step.

        Another optimizer of the same iteration, or a model that no root is known of (the next fold,
        a notebook's next cell): the search costs one hook call.
        """
        self.gated = self._forward_since_step
        self._forward_since_step = False
        if not self.gated:
            self._look_for_root()

    def _wrap_scaler(self, scaler: Any) -> None:
        """A step that GradScaler skips (infinite gradients) ends its iteration all the same."""
        update = scaler.update
        gate = self

        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = update(self, *args, **kwargs)
            if gate._mine():
                gate.stepped = True
            return result

        scaler.update = wrapped

    def _wrap_loader(self) -> None:
        """While a loader with workers has nothing ready, the turn goes to somebody else."""
        from torch.utils.data import dataloader

        advance = dataloader._MultiProcessingDataLoaderIter.__next__
        gate = self

        def wrapped(self: Any) -> Any:
            if gate.open and gate.stepped and gate._mine() and not loader_ready(self):
                gate.end()
            return advance(self)

        dataloader._MultiProcessingDataLoaderIter.__next__ = wrapped  # type: ignore[method-assign]

    def _look_for_root(self) -> None:
        from torch.nn.modules.module import register_module_forward_pre_hook

        if self._global_handle is None:
            self._global_handle = register_module_forward_pre_hook(self._any_forward)

    def _any_forward(self, module: Any, args: Any) -> None:
        """The first forward since the search began is the outermost module's: watch it."""
        import torch

        if torch.compiler.is_compiling() or not self._mine() or _in_backward():
            return
        if self._global_handle is not None:
            self._global_handle.remove()
            self._global_handle = None
        if self._root_hook not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(self._root_hook)
            self._root_forward(module, args)  # a hook that is new runs from the next call on

    def _root_forward(self, module: Any, args: Any) -> None:
        import torch

        if torch.compiler.is_compiling() or not self._mine() or _in_backward():
            return
        self.gated = True
        self._backwards_since_forward = 0
        self._forward_since_step = True
        self._forward_since_batch = True
        if not torch.is_grad_enabled():
            # A teacher's forward inside an iteration is part of it; after a step, or in a row, it
            # is evaluation.
            if not self.open or self.stepped or self.phase == _EVALUATION:
                self.boundary(_EVALUATION)
        elif not self.open or self.stepped or self.phase == _EVALUATION:
            self.boundary(self._training_phase())

    # -- what we do ------------------------------------------------------------------------

    def _mine(self) -> bool:
        return self._thread is None or self._thread == threading.get_ident()

    def _training_phase(self) -> int:
        """Alternating optimizers (a GAN's halves) are iterations of different kinds."""
        key = tuple(sorted(self._stepped_optimizers))
        if len(self._phases) > 64:
            return _FIRST_TRAINING_PHASE
        return self._phases.setdefault(key, _FIRST_TRAINING_PHASE + len(self._phases))

    def boundary(self, phase: int) -> None:
        """Ends the iteration that is open and begins the next; waits for the turn in between."""
        self.end(continuing=True)
        self.begin(phase)

    def end(self, *, continuing: bool = False) -> None:
        """Ends the open iteration, if any: the turn goes to others.

        Args:
            continuing: The next one begins at once; the turn policy may leave the turn here.
        """
        if not self.open or not self._mine():
            return
        self.open = False
        self.stepped = False
        self._stepped_optimizers.clear()
        _core.end_iteration(continuing)
        _notice.tell()

    def begin(self, phase: int) -> None:
        """Begins an iteration; waits for the turn."""
        if self._thread is None:
            self._thread = threading.get_ident()
        if self.on_first_iteration is not None:
            first, self.on_first_iteration = self.on_first_iteration, None
            first()
        if self.before_begin is not None:
            self.before_begin(self.steps_seen)
        steps = self.steps_seen if self.steps_of_job is None else self.steps_of_job()
        self.waiting = True
        try:
            _core.begin_iteration(phase, self._paused, steps, self._waits)
        finally:
            self.waiting = False
            _notice.tell()
        self.begun = True
        paused_s = self._notice.running()
        if paused_s is not None and self.on_held is not None:
            self.on_held(False)
        self.open = True
        self.stepped = False
        self.phase = phase
        wanted = _core.operators_wanted()
        if wanted != self._armed:
            self._arm(wanted)
            self._armed = wanted
        if self.on_begun is not None:
            self.on_begun(paused_s)
        if self.after_begin is not None:
            self.after_begin()
        self.tell_begun()

    def tell_begun(self) -> None:
        """Calls `when_begun`; also where a program may look at the job outside of iterations."""
        for call in list(self.when_begun.values()):
            call()

    def _waits(self) -> None:
        _notice.tell()
        if self.while_waiting is not None:
            self.while_waiting()

    def _paused(self) -> None:
        self._notice.paused()
        if self.on_held is not None:
            self.on_held(True)

    def batch_boundary(self) -> None:
        """For loops without torch's optimizers or modules: each batch is an iteration."""
        if not self._mine():
            return  # an iteration of the thread that trains is open, or it owns the gate
        forward, self._forward_since_batch = self._forward_since_batch, False
        if self.open and forward and self.steps_seen > 0:
            return  # the next forward is the better place
        self.boundary(_FIRST_TRAINING_PHASE)

    def adopt(self) -> None:
        """The calling thread will train; ignored while another one is inside an iteration."""
        if not self.open:
            self._thread = threading.get_ident()

    def may_move(self) -> bool:
        """Whether the calling thread may move the job's memory itself, at once.

        Not within an iteration, and not while another thread waits for its turn: that one does it.
        """
        return not self.open and (not self.waiting or self._mine())

    def leave(self) -> None:
        """No more iterations for now."""
        self.end()
        _core.leave()


def _in_backward() -> bool:
    """Whether this is a forward that a checkpoint repeats inside of backward."""
    import torch

    return bool(torch._C._current_graph_task_id() != -1)


def _let_orphans_go() -> None:
    """Loader workers of a killed job end within half a second, not after torch's five.

    A forked worker holds its parent's pages as they were at the fork: until it has gone, the
    memory of a dead job is not free. A worker looks for its parent when it has waited so long.
    """
    import torch.utils.data._utils.worker

    worker: Any = torch.utils.data._utils.worker
    worker.MP_STATUS_CHECK_INTERVAL = min(0.5, float(worker.MP_STATUS_CHECK_INTERVAL))


def loader_ready(iterator: Any) -> bool:
    """Whether the next batch of a multi-process DataLoader iterator has arrived here."""
    info = getattr(iterator, "_task_info", {}).get(getattr(iterator, "_rcvd_idx", -1))
    if info is not None and len(info) == 2:
        return True
    queue = getattr(iterator, "_data_queue", None)
    if queue is None:
        return True
    try:
        return not queue.empty()
    except (OSError, NotImplementedError):
        return True


GATE = Gate()
