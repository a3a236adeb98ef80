"""Freezes or thaws the job that starts it, through the driver's checkpoint of a process.

A script of its own, `python -I -S _deep.py LIBRARY PID freeze|thaw`, since CUDA calls of the job
itself wait as long as it is frozen. It imports nothing of torchtide. What it prints is read by
csrc/runtime/checkpoint_helper.cc: "begun" before anything changes, then "done", or "failed CODE
TEXT"; and "running" where a freeze has failed and is undone.
"""

from __future__ import annotations

import ctypes
import sys

#: Milliseconds for which a freeze waits for calls that are under way.
PATIENCE_MS = 10_000
#: CUprocessState of cuda.h.
RUNNING, LOCKED, CHECKPOINTED = 0, 1, 2


class LockArguments(ctypes.Structure):
    """CUcheckpointLockArgs of cuda.h; what is reserved must be zero."""

    _fields_ = (
        ("timeout_ms", ctypes.c_uint),
        ("reserved_0", ctypes.c_uint),
        ("reserved_1", ctypes.c_uint64 * 7),
    )


class RefusedError(Exception):
    """The driver's answer to a call."""

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call}: the CUDA driver says {name} ({code})")
        self.code = code


def say(words: str) -> None:
    """One line for the job."""
    print(words, flush=True)


class Target:
    """The process that is frozen or thawed."""

    def __init__(self, library: str, pid: int) -> None:
        self._driver = ctypes.CDLL(library)
        self._pid = pid
        # Without it a restore needs the persistence mode, as cuda.h says.
        self._check("cuInit", self._driver.cuInit(0))

    def _check(self, call: str, code: int) -> None:
        if code == 0:
            return
        name = ctypes.c_char_p()
        self._driver.cuGetErrorName(code, ctypes.byref(name))
        raise RefusedError(call, code, (name.value or b"an unknown error").decode())

    def _do(self, step: str, argument: object = None) -> None:
        call = f"cuCheckpointProcess{step}"
        self._check(call, getattr(self._driver, call)(self._pid, argument))

    def freeze(self) -> None:
        """Raises RefusedError; the process runs then, unless undoing it is refused too."""
        lock = LockArguments(timeout_ms=PATIENCE_MS)
        say("begun")
        try:
            self._do("Lock", ctypes.byref(lock))
        except RefusedError as refused:  # it has been left as it was
            say(f"failed {refused.code} {refused}")
            say("running")
            return
        try:
            self._do("Checkpoint")
        except RefusedError as refused:
            say(f"failed {refused.code} {refused}")
            self._do("Unlock")
            say("running")
            return
        say("done")

    def thaw(self) -> None:
        """Raises RefusedError; what has been done stays, and may be gone on with."""
        state = ctypes.c_int(RUNNING)
        self._do("GetState", ctypes.byref(state))
        if state.value == CHECKPOINTED:
            self._do("Restore")
        if state.value != RUNNING:
            self._do("Unlock")
        say("done")


def main(library: str, pid: str, verb: str) -> None:
    """Does what the command line says."""
    try:
        target = Target(library, int(pid))
        if verb == "freeze":
            target.freeze()
        else:
            target.thaw()
    except RefusedError as refused:
        say(f"failed {refused.code} {refused}")


if __name__ == "__main__":
    main(*sys.argv[1:])
