"""Tab after `tide pause`: names of jobs, as bash asks for them, and quickly."""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys

import cli_processes as processes
import pytest
from torchtide import _launch
from torchtide.cli import completion, elastic, jobs

Said = pytest.CaptureFixture[str]
#: CPU time of one answer. Measured: 0.14 s, of which Python itself is 0.03; with typer 0.40.
CPU_S_MAX = 0.35


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """Two plain jobs, and an elastic one with two processes."""
    there = ["train", "train-2", "digits[0]", "digits[1]", "other"]
    monkeypatch.setattr(jobs, "job_names", lambda _: there)
    monkeypatch.setattr(elastic, "_folder", lambda: tmp_path)
    note = {"pid": os.getpid(), "start": _launch.process_start_time(os.getpid()), "fd": 0}
    (tmp_path / "digits.json").write_text(json.dumps(note))
    (tmp_path / "gone.json").write_text(json.dumps({**note, "start": 1}))


def asked(words: str, place: int) -> dict[str, str]:
    return {"_TIDE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tide pause ", ["digits", "train", "train-2", "other"]),
        ("tide limit tr", ["train", "train-2"]),
        ("tide resize ", ["digits"]),
        ("tide explain x", []),
    ],
)
def test_names_that_fit(names: None, capsys: Said, words: str, said: list[str]) -> None:
    assert completion.answer_bash(asked(words, 2))
    assert capsys.readouterr().out.split() == said


@pytest.mark.parametrize(
    ("words", "place"),
    [("tide pa", 1), ("tide limit train ", 3), ("tide pause --t", 2), ("tide run ", 2)],
)
def test_what_is_no_name_is_left_to_the_library(
    names: None, capsys: Said, words: str, place: int
) -> None:
    assert not completion.answer_bash(asked(words, place))
    assert not completion.answer_bash({})
    assert capsys.readouterr().out == ""


def test_each_command_that_takes_a_job_is_known() -> None:
    from torchtide.cli.app import app

    found = set()
    for command in app.registered_commands:
        if "Job" in getattr(command.callback, "__annotations__", {}).values():
            found.add(str(command.name or getattr(command.callback, "__name__", "")))
    assert found == completion.OF_JOBS


def complete(environ: dict[str, str], words: str, place: int) -> tuple[list[str], float]:
    """What bash gets, and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        processes.TIDE, env={**environ, **asked(words, place)}, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == 0 and not ended.stderr
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ended.stdout.split(), used


def test_without_a_daemon_there_are_no_names_and_it_is_quick(tmp_path: pathlib.Path) -> None:
    environ = processes.environment(tmp_path)
    took = [complete(environ, "tide pause ", 2) for _ in range(3)]
    assert [names for names, _ in took] == [[]] * 3
    assert min(seconds for _, seconds in took) < CPU_S_MAX
    commands, _ = complete(environ, "tide pa", 1)
    assert commands == ["pause"]


def test_the_shell_gets_its_script(tmp_path: pathlib.Path) -> None:
    environ = processes.environment(tmp_path, SHELL="/bin/bash")
    environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    ended = subprocess.run(
        [*processes.TIDE, "--install-completion", "bash"], env=environ, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    script = (tmp_path / ".bash_completions/tide.sh").read_text()
    # As bash does it: the function that the script defines, with a `tide` on the path.
    (tmp_path / "tide").write_text(f'#!/bin/sh\nexec {sys.executable} -m torchtide "$@"\n')
    (tmp_path / "tide").chmod(0o755)
    asking = (
        f"{script}\nCOMP_WORDS=(tide pau); COMP_CWORD=1; _tide_completion tide; "
        'echo "${COMPREPLY[@]}"'
    )
    environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
    answer = subprocess.run(["bash", "-c", asking], env=environ, capture_output=True, text=True)
    assert answer.stdout.split() == ["pause"], answer.stderr
