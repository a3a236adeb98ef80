"""Reads the command of `tide run`: what to call the job, and whether Python will let us in.

Pure but for one look at the first line of an executable script. It recognises Python and its
options, shells, launchers of ranks, and wrappers such as `env` and `nice`; of anything else it
knows the name.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from torchtide._launch import LAUNCHER_MODULES, LAUNCHERS

_PYTHON: Final = re.compile(r"(?:python|pypy)(?:\d+(?:\.\d+)?[td]?)?")
_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish"})
#: Options of the launchers that take no value; every other one is followed by its value.
_LAUNCHER_FLAGS: Final = frozenset(
    {"--standalone", "--no-python", "--no_python", "--run-path", "--run_path", "--use-env"}
    | {"--use_env", "--module", "-m", "--multi-gpu", "--multi_gpu", "--cpu", "--debug", "-q"}
)
#: Programs that start the rest of their own command line.
_WRAPPERS: Final = frozenset(
    {"env", "nice", "nohup", "setsid", "stdbuf", "time", "timeout", "taskset", "numactl", "ionice"}
    | {"chrt", "strace", "perf", "uv", "poetry", "pipenv", "pdm", "hatch", "rye", "pixi", "conda"}
    | {"mamba", "micromamba", "pyenv"}
)
_SCRIPT_SUFFIXES: Final = frozenset({".py", ".pyc", ".sh", ".bash", ".zsh", ".pex", ".pyz"})
#: Options that make Python ignore the environment or `sitecustomize`, and what to do instead.
_FIXES: Final = {
    "I": "use `-s -P` instead of -I: no user site, no unsafe path, but the environment is read",
    "E": "leave -E out: with it Python ignores PYTHONPATH, through which tide is loaded",
    "S": "leave -S out: with it Python loads no sitecustomize, through which tide is loaded",
}
#: A name has its place in the device table: 64 bytes with the terminating zero.
NAME_BYTES_MAX: Final = 63


@dataclass(frozen=True)
class Inspection:
    """What could be read from a command line."""

    name: str
    refused_option: str = ""  # "-I", "-E" or "-S"
    advice: str = ""


@dataclass(frozen=True)
class PythonCall:
    """A Python command line taken apart."""

    options: tuple[str, ...]  # letters of the options without a value, as in "u", "I"
    kind: str  # "script", "module", "code" or "stdin"
    target: str
    rest: tuple[str, ...]


def inspect(command: Sequence[str]) -> Inspection:
    """Name of the job and the option, if any, that would keep tide out of it.

    Args:
        command: Program and arguments, at least the program.
    """
    program = PurePath(command[0]).name
    if _PYTHON.fullmatch(program):
        return _of_python(parse_python(command[1:]))
    if program in _SHELLS:
        return _of_shell(program, command[1:])
    if program in LAUNCHERS:
        return Inspection(_launched_name(command[1:], program))
    if program in _WRAPPERS:
        inner = next((i for i, word in enumerate(command) if i > 0 and _starts_program(word)), None)
        if inner is not None:
            return inspect(command[inner:])
    return _of_executable(command[0])


def parse_python(arguments: Sequence[str]) -> PythonCall:
    """Takes the arguments of a Python interpreter apart, as its own option parser does.

    Args:
        arguments: What follows the interpreter.
    """
    letters: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word == "--check-hash-based-pycs":
            del rest[:1]
            continue
        if word.startswith("--"):
            continue
        for place, letter in enumerate(word[1:], start=1):
            if letter not in "cmWX":
                letters.append(letter)
                continue
            value = word[place + 1 :] or (rest.pop(0) if rest else "")
            if letter in "cm":
                kind = "code" if letter == "c" else "module"
                return PythonCall(tuple(letters), kind, value, tuple(rest))
            break
    if not rest or rest[0] == "-":
        return PythonCall(tuple(letters), "stdin", "", tuple(rest[1:]))
    return PythonCall(tuple(letters), "script", rest[0], tuple(rest[1:]))


def fit_name(name: str) -> str:
    """The name without control characters, cut to what the device table holds."""
    from torchtide.cli.text import clean

    name = " ".join(clean(name).split()) or "job"
    return name.encode()[:NAME_BYTES_MAX].decode(errors="ignore")


def _of_python(call: PythonCall) -> Inspection:
    if call.kind == "module":
        name = call.target
        if call.target in LAUNCHER_MODULES:
            name = _launched_name(call.rest, call.target)
        elif name.endswith(".__main__"):
            name = name.removesuffix(".__main__")
    elif call.kind == "script":
        name = _launched_name(call.rest, "") if PurePath(call.target).name in LAUNCHERS else ""
        name = name or _script_name(call.target)
    else:
        name = "python"
    refused = next((letter for letter in call.options if letter in _FIXES), "")
    if refused:
        return Inspection(fit_name(name), f"-{refused}", _FIXES[refused])
    return Inspection(fit_name(name))


def _of_shell(shell: str, arguments: Sequence[str]) -> Inspection:
    rest = list(arguments)
    while rest and rest[0].startswith(("-", "+")):
        word = rest.pop(0)
        if word in ("-o", "+o", "-O", "+O", "--rcfile", "--init-file"):
            del rest[:1]
        elif not word.startswith("--") and "c" in word[1:]:
            return _of_shell_code(shell, rest[0] if rest else "")
    return Inspection(fit_name(_script_name(rest[0]) if rest else shell))


def _of_shell_code(shell: str, code: str) -> Inspection:
    """A simple command in `sh -c '...'` is read; anything with shell syntax is just the shell."""
    try:
        words = [] if re.search(r"[;&|<>$`()\n]", code) else shlex.split(code)
    except ValueError:
        words = []
    while words and (words[0] == "exec" or re.match(r"[A-Za-z_]\w*=", words[0])):
        words.pop(0)
    return inspect(words) if words else Inspection(shell)


def _of_executable(program: str) -> Inspection:
    name = fit_name(_script_name(program))
    call = _shebang_python(program)
    if call is None:
        return Inspection(name)
    refused = next((letter for letter in call.options if letter in _FIXES), "")
    if not refused:
        return Inspection(name)
    return Inspection(
        name,
        f"-{refused}",
        f"run it as `tide run -- python {program}`: its first line has -{refused}",
    )


def _shebang_python(program: str) -> PythonCall | None:
    """The Python command of a script's first line, if it has one."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            head = file.read(256)
    except OSError:
        return None
    if not head.startswith(b"#!"):
        return None
    words = head[2:].split(b"\n")[0].decode(errors="replace").split()
    if words and PurePath(words[0]).name == "env":
        words = [word for word in words[1:] if word != "-S" and "=" not in word]
    if not words or not _PYTHON.fullmatch(PurePath(words[0]).name):
        return None
    return parse_python([*words[1:], program])


def _starts_program(word: str) -> bool:
    path = PurePath(word)
    known = _PYTHON.fullmatch(path.name) or path.name in LAUNCHERS or path.name in _SHELLS
    return bool(known) or path.suffix in _SCRIPT_SUFFIXES


def _launched_name(arguments: Sequence[str], fallback: str) -> str:
    """Name of the script or module that a launcher such as torchrun is told to start."""
    rest = list(arguments)
    if rest[:1] == ["launch"]:
        rest.pop(0)
    module = False
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        module = module or word in ("-m", "--module")
        if word not in _LAUNCHER_FLAGS and "=" not in word and rest:
            rest.pop(0)
    if not rest:
        return fallback
    return rest[0] if module else _script_name(rest[0])


def _script_name(path: str) -> str:
    """Stem of a script; the folder's name where the file says nothing (`pkg/__main__.py`, `.`)."""
    pure = PurePath(path)
    if pure.name in ("__main__.py", "", "..") or path in (".", "./"):
        parent = pure.parent if pure.name == "__main__.py" else pure
        return Path(parent).resolve().name or "python"
    return pure.stem if pure.suffix in _SCRIPT_SUFFIXES else pure.name
