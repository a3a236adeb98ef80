"""Each example runs, and two runs of it alone are bitwise the same, or sharing could not be judged.

The scripts run in forks of a process that has imported torch and scikit-learn: that takes seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = Path(__file__).parents[1] / "integration" / "scripts"
FORKS = """
import json, os, runpy, sys, traceback
import torch, torch._dynamo, sklearn.datasets
for line in sys.stdin:
    script, *arguments = json.loads(line)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            sys.argv = [script, *arguments]
            sys.path.insert(0, os.path.dirname(script))
            os.dup2(2, 1)
            runpy.run_path(script, run_name="__main__")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forks:
    """Runs a script in a fork of a process that has torch."""

    def __init__(self, log: Path) -> None:
        with log.open("wb") as file:
            self._child = subprocess.Popen(
                [sys.executable, "-c", FORKS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self._log = log

    def run(self, script: Path, *arguments: str) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None
        print(json.dumps([str(script), *arguments]), file=self._child.stdin, flush=True)
        answer = self._child.stdout.readline()
        assert answer == "0\n", self._log.read_text()[-2000:]

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> object:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    runner = Forks(tmp_path_factory.mktemp("forks") / "log")
    yield runner
    runner.close()


SMALL = {
    "digits_cnn": ("--steps", "3", "--batch-size", "16"),
    "char_gpt": ("--steps", "3", "--batch-size", "4", "--window", "32"),
    "word_lstm": ("--steps", "3", "--batch-size", "8", "--vocabulary", "500"),
    "wide_adam": ("--steps", "3", "--batch-size", "8", "--width", "256"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_two_runs_of_an_example_alone_are_bitwise_equal(
    forks: Forks, tmp_path: Path, name: str
) -> None:
    records = []
    for i in range(2):
        forks.run(EXAMPLES / f"{name}.py", *SMALL[name], "--out", str(tmp_path / f"{i}.json"))
        records.append(json.loads((tmp_path / f"{i}.json").read_text()))
    for key in ("digests", "losses", "state_bytes", "parameter_bytes"):
        assert records[0][key] == records[1][key]
    assert len(records[0]["losses"]) == 3 and len(records[0]["times"]) == 4
    assert any(name.startswith("optimizer") for name in records[0]["digests"])
    assert "random state" in records[0]["digests"]


@pytest.mark.slow
def test_another_seed_gives_another_result(forks: Forks, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        out = str(tmp_path / f"{seed}.json")
        forks.run(EXAMPLES / "char_gpt.py", *SMALL["char_gpt"], "--seed", seed, "--out", out)
    one, other = (json.loads((tmp_path / f"{seed}.json").read_text()) for seed in "12")
    assert all(one["digests"][name] != other["digests"][name] for name in ("random state",))
    assert one["losses"] != other["losses"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mnist", ("--epochs", "1")),
        ("word_language_model", ("--epochs", "1", "--batches", "2", "--ntoken", "500")),
        ("vae", ("--epochs", "1")),
    ],
)
def test_two_runs_of_an_official_style_script_are_bitwise_equal(
    forks: Forks, tmp_path: Path, name: str, arguments: tuple[str, ...]
) -> None:
    records = []
    for i in range(2):
        out = tmp_path / f"{i}.json"
        forks.run(SCRIPTS / f"{name}.py", *arguments, "--out", str(out))
        records.append(json.loads(out.read_text()))
    assert records[0] == records[1]
