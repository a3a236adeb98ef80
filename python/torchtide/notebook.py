"""Notebooks: `%load_ext torchtide`, `%tide`, and memory that an idle kernel gives back.

A kernel holds what its last cell left in memory, for hours. With the extension loaded it gives up
its turn when a cell ends, and after some idle time its memory goes to the file tier; the next cell
finds everything at the same addresses. All of it happens on the kernel's own thread, between cells.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
import shlex
import sys
from collections.abc import Mapping
from typing import Any, Final

from torchtide import _core, errors, runtime
from torchtide._gate import GATE
from torchtide.cli import text
from torchtide.cli.core import format_bytes

_LOG = logging.getLogger("torchtide")
IDLE_DEFAULT_S: Final = 60.0
#: How long `tide pause` and `tide limit` from a shell may wait for a kernel without a cell.
_ATTEND_S: Final = 0.25
#: A restoration that takes longer than this is told.
_TOLD_FROM_S: Final = 0.3

#: What a handle shows of the report, in order, with its heading.
_SIZES: Final[Mapping[str, str]] = {
    "committed": "in memory",
    "demoted": "in the file tier",
    "outside": "outside of pages",
    "limit": "limit",
    "smallest_limit": "smallest limit",
}

HELP: Final = """\
%tide                 this kernel's job
%tide limit 2GiB      its limit ("none" for none)
%tide pause           all its memory to the file tier now
%tide resume          and back
%tide idle 300        seconds without a cell after which that happens by itself; "off" never
%tide ps, explain JOB, events, ...   as on the command line; `tide top` is for a terminal"""


class Handle:
    """This process as a job: its name and figures, as text or as a table in a notebook."""

    def __init__(self, idle: str = "") -> None:
        self.name = str(_core.name())
        self.report = runtime.report()
        self._idle = idle

    def rows(self) -> list[tuple[str, str]]:
        """Headings and values."""
        rows = [("state", "released" if self.report["suspended"] else "in memory")]
        for key, heading in _SIZES.items():
            size = int(self.report[key])
            none = key == "limit" and size == 0
            rows.append((heading, "none" if none else format_bytes(size)))
        rows.append(("iterations", f"{int(self.report['iterations']):,}"))
        seconds = float(self.report["predicted_suspend_seconds"])
        rows.append(("a release takes", text.duration_ms(seconds * 1000)))
        return [*rows, ("after idle", self._idle)] if self._idle else rows

    def __repr__(self) -> str:
        return f"job {self.name}: " + ", ".join(f"{head} {value}" for head, value in self.rows())

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(head)}</th>"
            f"<td style='text-align:right'>{html.escape(value)}</td></tr>"
            for head, value in self.rows()
        )
        caption = f"<caption><b>{html.escape(text.clean(self.name))}</b></caption>"
        return f"<table>{caption}<tbody>{cells}</tbody></table>"


class Extension:
    """What stands between the cells of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._idle_s: float | None = IDLE_DEFAULT_S
        self._timer: asyncio.TimerHandle | None = None
        self._attending: asyncio.TimerHandle | None = None
        self._released = False
        self._grad_enabled = True  # when the cell began

    def install(self) -> None:
        """Starts the job and listens to cells."""
        if not _core.get_option("job.name"):
            _core.set_option("job.name", "notebook", "call")
        if runtime.start() is None:
            print("torchtide is switched off (TIDE_DISABLE=1)")
            return
        self._shell.events.register("pre_run_cell", self.before_cell)
        self._shell.events.register("post_run_cell", self.after_cell)
        self._shell.register_magic_function(self.magic, "line", "tide")

    def remove(self) -> None:
        """Listens no more; the job stays a job until the kernel ends."""
        for event, callback in (
            ("pre_run_cell", self.before_cell),
            ("post_run_cell", self.after_cell),
        ):
            with contextlib.suppress(ValueError):
                self._shell.events.unregister(event, callback)
        self._forget_timer()
        if self._attending is not None:
            self._attending.cancel()
        self._restore()

    # -- cells -----------------------------------------------------------------------------

    def before_cell(self, *_: Any) -> None:
        """Brings back what idling took; the cell's thread is the one that trains."""
        self._forget_timer()
        self._restore()
        GATE.adopt()
        _core.await_devices(GATE._paused)  # a cell may touch them without beginning an iteration
        GATE.tell_begun()
        self._grad_enabled = _torch_grad_enabled()

    def attend(self) -> None:
        """Carries out what others ask of the job while no cell runs; again and again."""
        if not GATE.open:
            _core.carry_out_orders()
        with contextlib.suppress(RuntimeError):
            self._attending = asyncio.get_running_loop().call_later(_ATTEND_S, self.attend)

    def after_cell(self, result: Any = None, *_: Any) -> None:
        """Ends the iteration that a cell left open, interrupted or not, and begins to idle."""
        self._mend_grad_mode(getattr(result, "error_in_exec", None))
        try:
            GATE.leave()
        except Exception as error:  # a full disk: the turn is kept, the next cell tries again
            _LOG.warning("event=turn_kept error=%r", str(error))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a terminal: nothing runs between its cells
        if self._attending is None:
            self.attend()
        if self._idle_s is None:
            return
        self._forget_timer()
        self._timer = loop.call_later(self._idle_s, self.release)

    def _mend_grad_mode(self, error: BaseException | None) -> None:
        """Turns gradients on again where an interrupt kept torch from doing so.

        Optimizers switch them off for their step and on in a `finally`; an interrupt that falls
        into that `finally` leaves them off for good, and the next backward pass of any cell fails.
        What a cell itself has switched off stays off.
        """
        if self._grad_enabled and not _torch_grad_enabled() and _cut_short(error):
            sys.modules["torch"].set_grad_enabled(True)

    def release(self) -> None:
        """Takes the memory out; runs on the kernel's thread, so no cell does."""
        self._timer = None
        if GATE.open or runtime.report()["suspended"]:
            return
        try:
            runtime.pause()
            self._released = True
        except Exception as error:
            _LOG.warning("event=not_released error=%r", str(error))

    def _restore(self) -> None:
        if not self._released:
            return
        self._released = False
        runtime.resume()
        took_s = float(runtime.report()["resume_seconds"])
        if took_s > _TOLD_FROM_S:
            print(
                f"torchtide: memory is back after {took_s:.1f} s; it was released while idle",
                file=sys.stderr,
            )

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- %tide -----------------------------------------------------------------------------

    def magic(self, line: str) -> Handle | None:
        """`%tide`: this kernel's job, or a command of the command line."""
        words = shlex.split(line)
        try:
            return self._magic(words)
        except errors.TideError as error:
            error.asked = error.asked or f"%tide {line}"
            from torchtide.cli import exits

            print(exits.as_text(error), file=sys.stderr)
            return None

    def _magic(self, words: list[str]) -> Handle | None:
        if words in (["help"], ["-h"], ["--help"]):
            print(HELP)
            return None
        if words[:1] == ["idle"] and len(words) == 2:
            self._idle_s = None if words[1] == "off" else _seconds(words[1])
        elif words == ["pause"]:
            runtime.pause()
            self._released = True  # the next cell brings it back, as after idling
        elif words == ["resume"]:
            self._released = True
            self._restore()
        elif words[:1] == ["limit"] and len(words) == 2:
            runtime.set_limit(None if words[1] == "none" else words[1])
        elif words:
            from torchtide.cli import main

            main([*words, "--once"] if words == ["top"] else words)
            return None
        return Handle("never" if self._idle_s is None else f"{self._idle_s:g} s")


def _torch_grad_enabled() -> bool:
    torch = sys.modules.get("torch")
    return torch is None or bool(torch.is_grad_enabled())


def _cut_short(error: BaseException | None) -> bool:
    """Whether an error left torch's code that was to bring an enabled grad mode back."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        place, before = (frame.f_globals.get("__name__"), frame.f_code.co_name), None
        if place == ("torch.optim.optimizer", "_use_grad"):
            before = frame.f_locals.get("prev_grad")
        elif place == ("torch.autograd.grad_mode", "__exit__"):
            before = getattr(frame.f_locals.get("self"), "prev", None)
        if before is True:
            return True
    return False


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise errors.OptionError(
            "not a number of seconds above 0",
            asked=f"%tide idle {word}",
            advice="`%tide idle 300`, or `%tide idle off`",
        )
    return seconds


_EXTENSIONS: dict[int, Extension] = {}


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext torchtide`; a second time does nothing."""
    if id(shell) not in _EXTENSIONS:
        extension = Extension(shell)
        extension.install()
        _EXTENSIONS[id(shell)] = extension


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext torchtide`."""
    extension = _EXTENSIONS.pop(id(shell), None)
    if extension is not None:
        extension.remove()
