"""docs/reference/compatibility.md is what was recorded, and what was recorded is what CI runs."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.python.test_gate_loops" name="a"/>
<testcase classname="tests.python.test_gate_loops" name="b"><skipped message="no"/></testcase>
<testcase classname="tests.python.test_tracking.TestMore" name="c"><failure message="x"/></testcase>
<testcase classname="elsewhere.test_x" name="d"/>
</testsuite></testsuites>"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    path = ROOT / "scripts/compatibility.py"
    spec = importlib.util.spec_from_file_location("compatibility", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(script: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script over a record of the test's own."""
    (tmp_path / "record.json").write_text(script.RECORD.read_text())
    for name, path in (("RECORD", "record.json"), ("PAGE", "page.md"), ("RESULTS", "results")):
        monkeypatch.setattr(script, name, tmp_path / path)
    (tmp_path / "results").mkdir()
    return script


def test_the_page_is_up_to_date(script: Any) -> None:
    assert script.stale() == []


def test_results_are_counted_by_file(script: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    assert script.counted(tmp_path / "junit.xml") == {
        "tests/python/test_gate_loops.py": {"passed": 1, "failed": 0, "skipped": 1},
        "tests/python/test_tracking.py": {"passed": 0, "failed": 1, "skipped": 0},
    }


def test_a_new_run_replaces_what_it_ran_and_leaves_the_rest(
    copy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads(copy.RECORD.read_text())
    told = {"torch": "2.15.0+cpu", "python": "3.11.0", "libc": "glibc 2.36", "machine": "x86_64"}

    def run(words: list[Any], **_: Any) -> Any:
        class Ended:
            stdout = json.dumps(told)

        return Ended()

    monkeypatch.setattr(copy.subprocess, "run", run)
    (copy.RESULTS / "pytest-2.15.xml").write_text(JUNIT)
    copy.record()
    after = json.loads(copy.RECORD.read_text())
    assert after["2.11"] == before["2.11"]
    assert after["2.15"]["on"] == told
    files = after["2.15"]["files"]
    assert files["tests/python/test_gate_loops.py"] == {"passed": 1, "failed": 0, "skipped": 1}
    assert (
        files["tests/python/test_elastic_data.py"]
        == before["2.15"]["files"]["tests/python/test_elastic_data.py"]
    )
    copy.PAGE.write_text(copy.page())
    assert "**1 failed**, 0 passed" in copy.PAGE.read_text()
    assert copy.stale() == ["torch 2.15: 'TensorBoard markers' did not pass"]


@pytest.mark.parametrize("broken", ["page", "version", "torch", "file"])
def test_what_is_out_of_date_is_told(
    copy: Any, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = json.loads(copy.RECORD.read_text())
    expected = {
        "page": "the page is not what was recorded",
        "version": "torch 2.11 is run by CI and was not recorded",
        "torch": "torch 2.14.9 was recorded, 2.15.0 is installed now",
        "file": "tests/python/gone.py of 'Gone' is gone",
    }[broken]
    if broken == "version":
        del record["2.11"]
    elif broken == "torch":
        record["2.15"]["on"]["torch"] = "2.14.9"
    elif broken == "file":
        monkeypatch.setitem(copy.AREAS, "Gone", ("tests/python/gone.py",))
    copy.RECORD.write_text(json.dumps(record))
    copy.PAGE.write_text("something else" if broken == "page" else copy.page())
    assert any(expected in reason for reason in copy.stale())
    assert sys.path[0] == str(ROOT / "scripts")
