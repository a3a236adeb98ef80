"""A file has at most 500 lines and a function at most 70, in C++ and in Python."""

from __future__ import annotations

import pytest
import source_tree as tree

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

# "path" or "path:function" -> reason; an entry here is a debt
ALLOWED: dict[str, str] = {}


def test_no_file_is_longer_than_one_sitting() -> None:
    long = {path: tree.text(path).count("\n") for path in tree.files(*tree.CPP, ".py")}
    assert {path: n for path, n in long.items() if n > FILE_LINES_MAX and path not in ALLOWED} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    functions = [f for path in tree.files(*tree.CPP) for f in tree.cpp_functions(path)]
    functions += [f for path in tree.files(".py") for f in tree.python_functions(path)]
    assert len(functions) > 20
    long = [
        f for f in functions if f.lines > FUNCTION_LINES_MAX and f"{f.path}:{f.name}" not in ALLOWED
    ]
    assert long == []


def test_allowed_exceptions_exist_and_have_reasons() -> None:
    for entry, reason in ALLOWED.items():
        assert entry.split(":")[0] in tree.tracked() and len(reason.split()) >= 4, entry


BODY = "\n".join(["  Step();"] * 68)


@pytest.mark.parametrize(
    ("source", "name", "lines"),
    [
        (f"namespace a {{\nint Big(int x) {{\n{BODY}\n}}\n}}\n", "Big", 70),
        (
            f"class C : public B {{\n public:\n  C() : b_{{1}}, c_{{}} {{\n{BODY}\n  }}\n}};\n",
            "C",
            70,
        ),
        ("void Short() { if (x) { y(); } }\nint z;\n", "Short", 1),
        ("void Text() {\n  Say(\"}{\", '{');  // }\n}\n", "Text", 3),
        ("int Given(Options options = {}, int x = f({1})) {\n  return 1;\n}\n", "Given", 3),
        (
            "absl::Status\nOut::Of(\n    int line) const {\n  auto f = [&] { return 1; };\n}\n",
            "Out::Of",
            5,
        ),
    ],
)
def test_cpp_functions_are_measured(source: str, name: str, lines: int) -> None:
    assert [(f.name, f.lines) for f in tree.cpp_functions("x.cc", source)] == [(name, lines)]


def test_python_functions_are_measured() -> None:
    source = "def outer():\n    def inner():\n        return 1\n    return inner\n"
    assert {f.name: f.lines for f in tree.python_functions("x.py", source)} == {
        "outer": 4,
        "inner": 2,
    }
