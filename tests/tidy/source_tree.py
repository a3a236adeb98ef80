"""What the tidy tests share: tracked files, C++ without comments and literals, its functions."""

from __future__ import annotations

import ast
import dataclasses
import functools
import pathlib
import re
import subprocess
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
CPP = (".h", ".cc")


@functools.cache
def tracked() -> tuple[str, ...]:
    """Paths, relative to the root, of what git tracks or would track (new files too)."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    paths = sorted(set(filter(None, output.split("\0"))))
    return tuple(
        path for path in paths if (ROOT / path).is_file() and not (ROOT / path).is_symlink()
    )


def files(*suffixes: str, under: str = "") -> list[str]:
    """Tracked paths that end in one of `suffixes` and start with `under`."""
    return [path for path in tracked() if path.endswith(suffixes) and path.startswith(under)]


@functools.cache
def text(path: str) -> str:
    """Contents of a tracked file; a binary file reads as empty."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


_NOISE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"(?P<delimiter>[^(\s]*)\(.*?\)(?P=delimiter)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'""",
    re.DOTALL,
)


def code_only(source: str) -> str:
    """C++ with comments and literals blanked; line breaks stay, so line numbers do."""

    def blank(match: re.Match[str]) -> str:
        breaks = "\n" * match.group(0).count("\n")
        return breaks if match.group(0).startswith("/") else '""' + breaks

    return _NOISE.sub(blank, source)


@dataclasses.dataclass(frozen=True)
class Function:
    """A function and the lines from its signature to its closing brace."""

    path: str
    name: str
    first_line: int
    lines: int


_CONTAINER = re.compile(
    r"^(?:template\s*<.*>\s*)?(?:inline\s+)?(?:namespace|class|struct|enum|union|extern\b)",
    re.DOTALL,
)

_LABEL = re.compile(r"\s*(?:public|private|protected)\s*:(?!:)")
# A formatted body has a space before its brace; `member_{1}`, `({1, 2})` and `= {}` are values.
_INITIALISER = re.compile(r"(?:[\w>(,{\]]|=\s*)$")


def cpp_functions(path: str, source: str | None = None) -> Iterator[Function]:
    """Functions at namespace and class scope; lambdas inside belong to their function."""
    code = code_only(text(path) if source is None else source)
    code = re.sub(
        r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*",
        lambda m: "\n" * m.group(0).count("\n"),
        code,
        flags=re.MULTILINE,
    )
    stack: list[tuple[str, int, str]] = []  # kind, offset of the header, header
    header_start = 0
    for position, character in enumerate(code):
        if character == "{" and _INITIALISER.search(code, max(0, position - 80), position):
            stack.append(("initialiser", position, ""))
        elif character == "{":
            label = _LABEL.match(code, header_start)
            header_start = label.end() if label else header_start
            header = code[header_start:position].strip()
            inside = bool(stack) and stack[-1][0] != "container"
            kind = (
                "block"
                if inside
                else "container"
                if _CONTAINER.match(header)
                else "function"
                if "(" in header
                else "block"
            )
            stack.append((kind, header_start, header))
            header_start = position + 1
        elif character == "}" and stack:
            kind, start, header = stack.pop()
            if kind == "function":
                lead = len(code[start:position]) - len(code[start:position].lstrip())
                first = code.count("\n", 0, start + lead) + 1
                name = header.split("(")[0].split()[-1] if header.split("(")[0].split() else header
                yield Function(path, name, first, code.count("\n", 0, position) + 2 - first)
            header_start = header_start if kind == "initialiser" else position + 1
        elif character == ";" and (not stack or stack[-1][0] == "container"):
            header_start = position + 1


def python_functions(path: str, source: str | None = None) -> Iterator[Function]:
    """Functions and methods of a Python file, nested ones too."""
    for node in ast.walk(ast.parse(text(path) if source is None else source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(
                path, node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1
            )


_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)


def includes(path: str) -> list[tuple[str, str]]:
    """Pairs of quote character and name, in order."""
    return _INCLUDE.findall(text(path))
