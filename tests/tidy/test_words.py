"""Words with one home or none: getenv, torch headers, sleeps in tests, machine paths."""

from __future__ import annotations

import ast
import re

import pytest
import source_tree as tree

# path -> reason; an entry here is a debt
SLEEPS_ALLOWED: dict[str, str] = {}
GETENV_ALLOWED: dict[str, str] = {}

GETENV = re.compile(r"\b(?:secure_)?getenv\s*\(")
TORCH = re.compile(r"^(?:torch|ATen|c10|caffe2)/")
SLEEP = re.compile(
    r"\btime\.sleep\b|\bfrom\s+time\s+import\s+[^\n]*\bsleep\b|\basyncio\.sleep\b|\bthis_thread::sleep_"
    r"|\babsl::SleepFor\b|\b(?:nano|u)sleep\s*\(|(?<![\w.:])sleep\s*\(\s*\d"
)
MACHINE = re.compile(r"(?<![\w.~-])/(?:work|root|home)/")


def found(pattern: re.Pattern[str], path: str, source: str) -> list[str]:
    """Where `pattern` is in `source`, as path:line."""
    return [
        f"{path}:{source.count(chr(10), 0, match.start()) + 1}"
        for match in pattern.finditer(source)
    ]


def test_getenv_lives_in_base_only() -> None:
    paths = [
        path for path in tree.files(*tree.CPP, under="csrc/") if not path.startswith("csrc/base/")
    ]
    hits = [hit for path in paths for hit in found(GETENV, path, tree.code_only(tree.text(path)))]
    assert [hit for hit in hits if hit.split(":")[0] not in GETENV_ALLOWED] == []


def test_torch_headers_stay_in_the_adapters() -> None:
    hits = []
    for path in tree.files(*tree.CPP):
        if path.startswith("csrc/torch_hooks/") or path == "csrc/bind/torch_module.cc":
            continue
        hits += [f"{path}: {name}" for _, name in tree.includes(path) if TORCH.match(name)]
    assert hits == []


def test_no_test_sleeps() -> None:
    paths = [
        path
        for path in tree.files(*tree.CPP, ".py", under="tests/")
        if not path.startswith("tests/tidy/")
    ]
    hits = []
    for path in paths:
        # scripts that a test starts are string literals, so Python is searched as it stands
        source = tree.text(path) if path.endswith(".py") else tree.code_only(tree.text(path))
        hits += found(SLEEP, path, source)
    assert [hit for hit in hits if hit.split(":")[0] not in SLEEPS_ALLOWED] == []


def test_no_path_of_a_developers_machine() -> None:
    hits = [
        hit
        for path in tree.tracked()
        if path != "tests/tidy/test_words.py"
        for hit in found(MACHINE, path, tree.text(path))
    ]
    assert hits == []


def test_every_python_module_says_what_it_is_for() -> None:
    paths = tree.files(".py")
    assert [path for path in paths if not ast.get_docstring(ast.parse(tree.text(path)))] == []


def test_allowed_exceptions_exist_and_have_reasons() -> None:
    for allowed in (SLEEPS_ALLOWED, GETENV_ALLOWED):
        for path, reason in allowed.items():
            assert path in tree.tracked() and len(reason.split()) >= 4, path


@pytest.mark.parametrize(
    "line",
    [
        "time.sleep(0.1)",
        "from time import monotonic, sleep",
        "await asyncio.sleep(1)",
        "std::this_thread::sleep_for(std::chrono::milliseconds(1));",
        "absl::SleepFor(absl::Seconds(1));",
        "usleep(100);",
        "  sleep(1);",
    ],
)
def test_a_sleep_is_recognised(line: str) -> None:
    assert found(SLEEP, "x", f"first\n{line}\n") == ["x:2"]


@pytest.mark.parametrize("line", ["job.sleep_word", "// no sleeping here", "kSleep(3)"])
def test_what_only_sounds_like_a_sleep_is_not(line: str) -> None:
    assert found(SLEEP, "x", line) == []
