"""`tide run --processes` and `tide resize` on the example: one result, whatever happens to it."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from elastic_harness import (
    DEADLINE_S,
    EXAMPLE,
    PACED,
    TIDE,
    await_size,
    await_step,
    started,
    tide,
    without_daemon,
)

pytest.importorskip("torch")
pytest.importorskip("sklearn")

EPOCHS = "12"


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> dict[str, str]:
    return without_daemon(tmp_path)


@pytest.mark.slow
def test_growing_shrinking_and_killing_leave_the_result_of_plain_python(
    tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    alone, moved, pipe = tmp_path / "alone.json", tmp_path / "moved.json", tmp_path / "go"
    os.mkfifo(pipe)
    command = [sys.executable, PACED, "-", "--epochs", EPOCHS, "--out", str(alone)]
    subprocess.run(command, env=environment, check=True, timeout=DEADLINE_S, capture_output=True)
    command = [sys.executable, PACED, str(pipe), "--epochs", EPOCHS, "--out", str(moved)]
    with started(environment, "--processes", "1:4", "--name", "digits", "--", *command) as job:
        await_step(job, 2)
        go = os.open(pipe, os.O_RDWR)
        code, answer = tide(environment, "resize", "digits", "3")
        assert (code, answer["to"], len(answer["pids"])) == (0, 3, 3)
        os.kill(answer["pids"][1], signal.SIGKILL)
        await_step(job, answer["step"] + 8)
        code, answer = tide(environment, "resize", "digits", "1")
        assert (code, len(answer["pids"])) == (0, 1)
        os.write(go, b"go")
        job.communicate(timeout=DEADLINE_S)
        os.close(go)
        assert job.returncode == 0
    assert json.loads(moved.read_text()) == json.loads(alone.read_text())
    assert list((tmp_path / "run/elastic").iterdir()) == []


@pytest.mark.slow
def test_what_goes_wrong_in_one_process_leaves_the_others_training(
    tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    alone, moved, pipe = tmp_path / "alone.json", tmp_path / "moved.json", tmp_path / "go"
    doom, error = tmp_path / "go.doom", tmp_path / "go.raise"
    os.mkfifo(pipe)
    command = [sys.executable, PACED, "-", "--epochs", "3", "--out", str(alone)]
    subprocess.run(command, env=environment, check=True, timeout=DEADLINE_S, capture_output=True)
    command = [sys.executable, PACED, str(pipe), "0.03", "--epochs", "3", "--out", str(moved)]
    with started(environment, "--processes", "1:3", "--name", "hard", "--", *command) as job:
        await_step(job, 1)
        go = os.open(pipe, os.O_RDWR)
        assert tide(environment, "resize", "hard", "2")[0] == 0
        doom.touch()
        code, answer = tide(environment, "resize", "hard", "3")  # its joiners die while they join
        assert code == 6, answer
        assert "a later wish for 2 processes" in answer["error"]["available"]
        doom.unlink()
        words = [*TIDE, "resize", "hard", "--json"]
        wishes = [
            subprocess.Popen([*words, size], env=environment, stdout=subprocess.DEVNULL)
            for size in ("1", "3")
        ]
        codes = {wish.wait(DEADLINE_S) for wish in wishes}
        assert codes in ({0}, {0, 6})  # one after the other, or one overtaken
        assert tide(environment, "resize", "hard", "2")[0] == 0
        await_size(job, 2)
        error.touch()
        await_size(job, 1)
        os.write(go, b"go")
        job.communicate(timeout=DEADLINE_S)
        os.close(go)
        assert job.returncode == 0
    assert json.loads(moved.read_text()) == json.loads(alone.read_text())


@pytest.mark.slow
def test_a_wrong_size_is_refused_and_the_job_goes_on(environment: dict[str, str]) -> None:
    command = [sys.executable, EXAMPLE, "--epochs", "400"]
    with started(environment, "--processes", "1:2", "--name", "small", "--", *command) as job:
        await_step(job, 1)
        for size, words in (("0", "1 to 2"), ("3", "1 to 2")):
            code, answer = tide(environment, "resize", "small", size)
            assert code == 2
            assert words in answer["error"]["available"]
        code, answer = tide(environment, "resize", "smal", "1")
        assert code == 3
        assert "there are small" in answer["error"]["available"]
        await_step(job, 3)
        job.terminate()
        job.communicate(timeout=DEADLINE_S)
        assert job.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_script_that_raises_ends_the_job_with_its_code(
    tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    script = tmp_path / "raises.py"
    script.write_text("raise SystemExit(7)\n")
    command = [*TIDE, "run", "--processes", "2", "--", sys.executable, str(script)]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert result.returncode in (7, 128 + signal.SIGTERM)
    assert "ended with code 7" in result.stderr


@pytest.mark.parametrize("text", ["0", "3:2", "1:", "x", "1:99", "-1"])
def test_bounds_that_make_no_sense_are_refused(text: str, environment: dict[str, str]) -> None:
    command = [*TIDE, "run", f"--processes={text}", "--", "true"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "the fewest and the most processes" in result.stderr
