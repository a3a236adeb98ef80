"""A daemon and jobs under `tide run` on a phantom of their own."""

from __future__ import annotations

import contextlib
import pathlib
import uuid
from collections.abc import Iterator

import live_machine
import phantom_gpu


@contextlib.contextmanager
def machine(folder: pathlib.Path, **variables: str | int) -> Iterator[live_machine.Machine]:
    """One in `folder`; its jobs and its phantom are gone afterwards."""
    name = f"m{uuid.uuid4().hex[:12]}"
    made = live_machine.Machine(
        folder,
        TIDE_PHANTOM_NAME=name,
        TIDE_PHANTOM_QUIET="1",
        TIDE_CAPACITY="64GiB",  # the host's memory is not what these tests are about
        **{key: str(value) for key, value in variables.items()},
    )
    try:
        yield made
    finally:
        made.close()
        phantom_gpu.forget(name)


def command(*words: str) -> tuple[str, ...]:
    """A command whose processes see the phantom; settings of the environment may come first."""
    return ("env", f"LD_PRELOAD={phantom_gpu.for_this_torch().preload}", *words)
