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
    ROOT,
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


@pytest.mark.one_torch
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


#: Notes after each step whom it carried; all but the main process take their time for that.
NOTES = """
import json, os, select, sys
import torch
import torchtide as tide

@tide.elastic(workers=2, processes=(1, 2))
def train(run):
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data = torch.utils.data.TensorDataset(torch.randn(120, 4))
    model, optimizer, loader = run.prepare(model, optimizer, data, batch_size=1, epochs=1)
    with open(f"{sys.argv[1]}.{os.getpid()}", "w") as notes:
        for (x,) in run.iterations(loader):
            carried = list(run.carried)
            run.backward(model(x).square().mean())
            if run.step():
                if not run.is_main:
                    select.select([], [], [], 0.5)
                print(json.dumps([run.step_index, carried]), file=notes, flush=True)
                print("step", run.step_index, flush=True)

train()
"""


@pytest.mark.one_torch
@pytest.mark.slow
def test_a_process_that_is_let_go_ends_its_last_step_in_peace(
    tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    script = tmp_path / "notes.py"
    script.write_text(NOTES)
    command = [sys.executable, str(script), str(tmp_path / "rows")]
    with started(environment, "--processes", "1:2", "--name", "notes", "--", *command) as job:
        await_step(job, 2)
        assert tide(environment, "resize", "notes", "2")[0] == 0
        await_step(job, 5)
        code, answer = tide(environment, "resize", "notes", "1")
        assert (code, answer["from"], len(answer["pids"])) == (0, 2, 1), "it ended before"
        job.communicate(timeout=DEADLINE_S)
        assert job.returncode == 0
    by_step: dict[int, list[int]] = {}
    for path in tmp_path.glob("rows.*"):
        for step, carried in map(json.loads, path.read_text().splitlines()):
            by_step.setdefault(step, []).extend(carried)
    assert {step: sorted(workers) for step, workers in by_step.items()} == {
        step: [0, 1] for step in range(1, 61)
    }


@pytest.mark.one_torch
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


@pytest.mark.one_torch
@pytest.mark.parametrize(
    ("code", "said"), [(7, "ended with code 7"), (0, "no elastic training has begun")]
)
def test_a_command_that_ends_before_it_trains_ends_the_job_with_its_code(
    code: int, said: str, environment: dict[str, str]
) -> None:
    command = [*TIDE, "run", "--processes", "2", "--", "sh", "-c", f"echo began; exit {code}"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert result.stdout.count("began") <= 2


@pytest.mark.one_torch
def test_one_that_raises_decides_the_code_of_those_that_are_ended_with_it(
    environment: dict[str, str], tmp_path: pathlib.Path
) -> None:
    first = f"mkdir {tmp_path}/first 2>/dev/null && exec sleep 600"
    command = [*TIDE, "run", "--processes", "2", "--", "sh", "-c", f"{first}; exit 7"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert result.returncode == 7, result.stderr


@pytest.mark.one_torch
@pytest.mark.parametrize("text", ["0", "3:2", "1:", "x", "1:99", "-1"])
def test_bounds_that_make_no_sense_are_refused(text: str, environment: dict[str, str]) -> None:
    command = [*TIDE, "run", f"--processes={text}", "--", "true"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "the fewest and the most processes" in result.stderr


@pytest.mark.one_torch
def test_a_policy_in_the_script_chooses_the_size_and_changes_no_bits(
    environment: dict[str, str],
) -> None:
    script = str(ROOT / "tests/integration/scripts/elastic_adapts.py")
    with started(environment, "--processes", "1:2", "--", sys.executable, script) as job:
        out, _ = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 0
    said = json.loads(out.splitlines()[-1])
    assert said["sizes"] == said["seconds"] == [1, 2] and said["bounds"] == [1, 2]
    alone = subprocess.run(
        [sys.executable, script, str(said["steps"])],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    plain = json.loads(alone.stdout.splitlines()[-1])
    assert plain["digest"] == said["digest"] and plain["steps"] == said["steps"]
    assert plain["noise"] == said["noise"]  # None where the signal is lost in the noise
