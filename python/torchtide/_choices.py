"""Options whose value is one of a few words."""

from __future__ import annotations

from torchtide import _core
from torchtide.errors import OptionError


def chosen(option: str, choices: tuple[str, ...]) -> str:
    """Value of an option of a job that starts.

    Args:
        option: its name, such as "cuda.resume".
        choices: what it may be, from the default to what is furthest from it.

    Raises:
        OptionError: it is none of `choices`.
    """
    value: str = _core.get_option(option)
    if value in choices:
        return value
    variable = next(row["variable"] for row in _core.options() if row["name"] == option)
    raise OptionError(
        f"{option} {value!r} is not one of {', '.join(choices)}",
        asked="start the job",
        advice=f"set {variable}={choices[0]} or {variable}={choices[-1]}",
    )
