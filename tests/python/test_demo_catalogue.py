"""`tide demo`: the list, refusals, and each demo in its short form."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from torchtide.cli import main
from torchtide.demo import catalogue, policies, resize
from torchtide.errors import TideError

Said = pytest.CaptureFixture[str]


def test_without_a_name_all_are_listed_a_line_each(capsys: Said) -> None:
    assert main(["demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["tide", "demo", "quickstart"],
        ["tide", "demo", "resize"],
        ["tide", "demo", "policies"],
    ]
    assert all(len(line) <= 100 for line in lines)
    assert main(["demo", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["demos"]
    assert [each["name"] for each in listed] == [each.name for each in catalogue.ALL]


def test_a_name_that_is_none_gets_the_closest_one(capsys: Said) -> None:
    assert main(["demo", "polices"]) == 2
    said = capsys.readouterr().err
    assert "there are quickstart, resize, policies" in said and "do: tide demo policies" in said


def test_policies_are_compared(capsys: Said) -> None:
    assert main(["demo", "policies", "--short", "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["ok"] and set(result["avg_jct_s"]) == set(policies.POLICIES)
    assert result["avg_jct_s"]["fifo"] > result["avg_jct_s"][result["best"]]
    assert "$ tide simulate trace.csv -p fifo" in said.err and "MAKESPAN" in said.err


def test_the_trace_is_the_same_each_time(tmp_path: pathlib.Path) -> None:
    for name in ("one", "two"):
        policies.write_trace(tmp_path / name, 30)
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text()
    assert len((tmp_path / "one").read_text().splitlines()) == 31


def test_what_did_not_hold_is_told_and_fails(capsys: Said, monkeypatch: Any) -> None:
    broken = catalogue.Demo("resize", "", lambda short: {"ok": False})
    monkeypatch.setattr(catalogue, "ALL", (broken,))
    assert main(["demo", "resize"]) == 1
    assert "it did NOT hold" in capsys.readouterr().out


def test_the_quickstart_is_the_program_of_the_source_tree(monkeypatch: Any, capsys: Said) -> None:
    started: list[list[str]] = []

    def run(words: list[str], **_: Any) -> Any:
        started.append(words)
        return subprocess.CompletedProcess(words, 3)

    monkeypatch.setattr(catalogue.subprocess, "run", run)
    assert main(["demo", "quickstart", "--short"]) == 1
    program = [sys.executable, "-m", "torchtide.demo.quickstart", "--quick", "--until", "solo"]
    assert started == [program]
    monkeypatch.setattr(catalogue, "__file__", "/nowhere/torchtide/demo/catalogue.py")
    assert main(["demo", "quickstart"]) == 2
    assert "scripts/quickstart" in capsys.readouterr().err


def test_a_training_that_ends_early_is_told() -> None:
    program = "print('step 1 processes 2 loss 0.5')"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        job = resize.Job(process)
        with pytest.raises(TideError, match="did not come that far"):
            job.until(step=2)
        assert job.sizes == [2]


@pytest.mark.one_torch
@pytest.mark.slow
def test_processes_come_and_go_and_the_bits_stay(capsys: Said) -> None:
    pytest.importorskip("torch")
    code = main(["demo", "resize", "--short", "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    result = json.loads(said.out.splitlines()[-1])
    assert result["alone"] == result["moved"] and len(result["alone"]) == 64
    assert result["sizes"][-1] == 1 and len(result["sizes"]) >= 4
