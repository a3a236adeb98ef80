"""`tide submit --profile`: what a user knows of how a job behaves."""

from __future__ import annotations

from typing import Any, Final

from torchtide.cli import core
from torchtide.errors import OptionError

_SIZES: Final = {"memory": "memory_gib", "scratch": "scratch_gib"}
_LISTS: Final = {"speed": "speed", "stages": "stage_s"}
_STAGES: Final = 4
_EXAMPLE: Final = '--profile "busy=0.6 memory=6GiB scratch=2GiB speed=1,1.9,2.7"'


def parse(text: str) -> dict[str, Any] | None:
    """A Submit frame's `profile` of "busy=0.6 memory=6GiB"; None of an empty text.

    Keys: `busy` (share of the time that the devices work, above 0 and at most 1), `memory` and
    `scratch` (sizes of a device: what stays between iterations, what one needs beyond), `speed`
    (with 1, 2, ... devices, any unit), `stages` (seconds of an iteration's storage, CPU, GPU and
    network).

    Raises:
        OptionError: a key or a value is none of these; with an example.
    """
    found: dict[str, Any] = {}
    for entry in text.split():
        key, _, value = entry.partition("=")
        if key in _SIZES:
            found[_SIZES[key]] = core.parse_bytes(value, f"--profile {entry}") / (1 << 30)
        elif key == "busy":
            found[key] = _numbers(entry, value)[0]
        elif key in _LISTS:
            found[_LISTS[key]] = _numbers(entry, value)
        else:
            names = ", ".join(("busy", *_SIZES, *_LISTS))
            raise OptionError(
                f"{key} is not one of {names}", asked=f"--profile {entry}", advice=_EXAMPLE
            )
    if not 0 < float(found.get("busy", 1)) <= 1:
        raise OptionError(
            "busy is a share of the time, above 0 and at most 1", asked="--profile", advice=_EXAMPLE
        )
    if len(found.get("stage_s", ())) > _STAGES:
        raise OptionError(
            f"an iteration has at most {_STAGES} stages", asked="--profile", advice=_EXAMPLE
        )
    return found or None


def _numbers(entry: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [-1.0]
    if not all(0 <= number < float("inf") for number in numbers):
        raise OptionError(
            "these are no numbers from 0", asked=f"--profile {entry}", advice=_EXAMPLE
        )
    return numbers
