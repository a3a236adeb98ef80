"""The option files: ./torchtide.toml of the project, ~/.config/torchtide/config.toml of the user.

A table is a prefix: `[spill] dir = "/scratch"` sets `spill.dir`. Where an option has the name of a
table (`lane`), the key `id` inside it means the option itself.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torchtide.cli import core
from torchtide.errors import OptionError

PROJECT_FILE: Final = "torchtide.toml"
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "admission": ("queue", "stream"),
    "daemon": ("auto", "off", "require"),
    "log": ("warning", "error", "off"),
    "job.priority": ("guaranteed", "normal", "opportunistic"),
    "pace.law": ("aimd", "tgs", "antman", "off"),
}
_TRUE_FALSE: Final = ("1", "0", "true", "false", "yes", "no", "t", "f", "y", "n")


@dataclass(frozen=True)
class Setting:
    """One option as a file states it."""

    name: str
    text: str
    file: Path


def files(folder: Path, environ: Mapping[str, str]) -> list[Path]:
    """The option files that exist, the weaker first.

    Args:
        folder: Where the command runs; its torchtide.toml is the project's.
        environ: For XDG_CONFIG_HOME and HOME.
    """
    home = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', str(Path.home()))}/.config"
    both = [Path(home) / "torchtide" / "config.toml", folder / PROJECT_FILE]
    return [path for path in both if path.is_file()]


def read(path: Path, options: Sequence[Mapping[str, str]]) -> list[Setting]:
    """The options that a file sets, each checked against the table.

    Raises:
        OptionError: The file is no TOML, names an option that does not exist, or states a value
            that is none of its unit.
    """
    asked = f"options of {path}"
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"not TOML: {error}", asked=asked, advice="correct that line") from error
    except OSError as error:
        raise OptionError(
            f"unreadable: {error.strerror}", asked=asked, advice=f"chmod u+r {path}"
        ) from error
    known = {option["name"]: option for option in options}
    return [
        Setting(name, _text(name, value, known, asked), path) for name, value in _flat(tree, known)
    ]


def apply(folder: Path, environ: Mapping[str, str]) -> list[Setting]:
    """Reads the option files and gives them to the library; the environment beats them.

    Returns:
        The settings, the stronger later.

    Raises:
        OptionError: As `read`.
    """
    found = files(folder, environ)
    if not found:
        return []
    options = core.options()
    settings = [setting for path in found for setting in read(path, options)]
    for setting in settings:
        core.set_option(setting.name, setting.text, "file")
    return settings


def exported(settings: Sequence[Setting], environ: Mapping[str, str]) -> dict[str, str]:
    """File settings as variables for a child that may look for its files elsewhere.

    Args:
        settings: As `apply` returned them.
        environ: Variables that are set here already stay as they are.
    """
    variables = (
        {option["name"]: option["variable"] for option in core.options()} if settings else {}
    )
    return {
        variables[setting.name]: setting.text
        for setting in settings
        if not environ.get(variables[setting.name])
    }


def check_environment(environ: Mapping[str, str]) -> None:
    """Checks the options that variables set, which the library itself would only warn about.

    Raises:
        OptionError: A variable has a value that its option cannot have.
    """
    for option in core.options():
        text = environ.get(option["variable"], "")
        if text:
            check_value(option["name"], option["unit"], text, f"variable {option['variable']}")


def check_value(name: str, unit: str, text: str, asked: str) -> None:
    """Checks a value by the unit of its option.

    Raises:
        OptionError: It is none of that unit.
    """
    words = _WORDS.get(name)
    if words and text not in words:
        raise OptionError(
            f'{name} = "{text}" is not one of {", ".join(words)}',
            asked=asked,
            advice=f"write {words[0]}",
        )
    if unit == "bytes":
        core.parse_bytes(text, f"{asked}: {name}")
    elif unit == "bool" and text.lower() not in _TRUE_FALSE:
        raise OptionError(
            f'{name} = "{text}" is neither true nor false', asked=asked, advice="write 1 or 0"
        )
    elif unit in ("count", "ms") and not _is_whole(text):
        raise OptionError(
            f'{name} = "{text}" is no whole number',
            asked=asked,
            advice=f"its unit is {unit}: write 10",
        )
    elif unit == "fraction" and not _is_fraction(name, text):
        raise OptionError(
            f'{name} = "{text}" is no fraction',
            asked=asked,
            advice="write a number above 0 and below 1, such as 0.05",
        )


def _is_whole(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def _is_fraction(name: str, text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    # what may be lost is never all of it
    return 0 < value < 1 or (value == 1 and name != "pace.loss_allowed")


def _flat(
    tree: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, known, f"{prefix}{key}.")
        elif key == "id" and prefix[:-1] in known:
            yield prefix[:-1], value
        else:
            yield prefix + key, value


def _text(name: str, value: Any, known: Mapping[str, Mapping[str, str]], asked: str) -> str:
    """The value as the environment would state it."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise OptionError(
            f'there is no option "{name}"', asked=asked, advice=f"{hint}`tide config` lists all"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"{name} = {value} is not a number", asked=asked, advice="write a number")
    if isinstance(value, bool):
        text = "1" if value else "0"
    elif isinstance(value, str | int | float):
        text = str(value)
    else:
        raise OptionError(
            f"{name} is a {type(value).__name__}", asked=asked, advice="write a string or a number"
        )
    check_value(name, known[name]["unit"], text, asked)
    return text
