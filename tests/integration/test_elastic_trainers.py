"""Hugging Face Trainer and Lightning modules as elastic jobs: the bits of one process."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from cli_processes import SOURCE
from elastic_harness import DEADLINE_S, ROOT, await_size, await_step, started, tide, without_daemon

pytest.importorskip("torch")

SCRIPTS = ROOT / "tests/integration/scripts"


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> dict[str, str]:
    """These packages take long to compile: what one process has compiled serves the next."""
    environ = without_daemon(tmp_path) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


def train(
    script: str, folder: pathlib.Path, environment: dict[str, str], *words: str
) -> dict[str, Any]:
    """The result of one process."""
    folder.mkdir()
    command = [sys.executable, str(SCRIPTS / script), "out.json", *words]
    ended = subprocess.run(
        command, cwd=folder, env=environment, timeout=DEADLINE_S, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return result(folder)


def result(folder: pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def train_resized(
    script: str, folder: pathlib.Path, environment: dict[str, str], *sizes: int
) -> dict[str, Any]:
    """The result of two processes, then of other numbers."""
    folder.mkdir()
    os.mkfifo(folder / "go")
    command = [
        sys.executable, str(SCRIPTS / script), str(folder / "out.json"),
        "--pipe", str(folder / "go"), "--folder", str(folder / "runs"),
    ]  # fmt: skip
    with started(environment, "--processes", "1:3", "--name", "trainer", "--", *command) as job:
        await_step(job, 1)
        go = os.open(folder / "go", os.O_RDWR)
        for size in sizes:
            code, answer = tide(
                environment, "resize", "trainer", str(size), "--timeout", str(DEADLINE_S)
            )
            assert (code, len(answer["pids"])) == (0, size), answer
            await_size(job, size)
        os.write(go, b"go")
        job.communicate(timeout=DEADLINE_S)
        os.close(go)
        assert job.returncode == 0
    return result(folder)


@pytest.mark.slow
def test_a_hugging_face_trainer_gives_the_bits_of_one_process(
    tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    pytest.importorskip("transformers")
    alone = train(
        "elastic_hf.py", tmp_path / "alone", environment, "--resume", "runs/checkpoint-28"
    )
    assert alone["finite"] and alone["steps"] == 36 and len(alone["digests"]) == 36
    assert alone["logged"] == list(range(2, 37, 2)) and len(alone["evaluated"]) == 9
    assert len(set(alone["digests"].values())) == 36
    resumed = alone["resumed"]
    assert resumed["digests"] == {str(n): alone["digests"][str(n)] for n in range(29, 37)}
    assert resumed["evaluated"] == alone["evaluated"]
    # The joiner is there at the end: it must have counted the evaluations before its time.
    moved = train_resized("elastic_hf.py", tmp_path / "moved", environment, 3)
    assert moved["steps"] == 36
    assert moved["digests"]["36"] == alone["digests"]["36"]
    assert moved["digests"].items() <= alone["digests"].items()
    assert moved["evaluated"] == alone["evaluated"][-len(moved["evaluated"]) :]


@pytest.mark.slow
def test_a_lightning_module_gives_the_bits_of_one_process(
    tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    pytest.importorskip("lightning")
    alone = train(
        "elastic_lightning.py", tmp_path / "alone", environment, "--resume", "runs/run-20.pt"
    )
    assert len(alone["digests"]) == len(set(alone["digests"].values())) == 32
    assert alone["epochs"] == list(range(8)) and len(alone["valid"]) == 16
    assert alone["rates"] == [1e-2 / 2 ** (epoch // 2) for epoch in range(8)]
    assert alone["metrics"] == ["loss", "valid"]
    resumed = alone["resumed"]
    assert resumed["digests"] == {str(n): alone["digests"][str(n)] for n in range(21, 33)}
    assert resumed["valid"] == alone["valid"][10:]
    moved = train_resized("elastic_lightning.py", tmp_path / "moved", environment, 3, 1)
    assert moved["digests"]["32"] == alone["digests"]["32"]
    assert moved["digests"].items() <= alone["digests"].items()
    assert moved["valid"] == alone["valid"][-len(moved["valid"]) :]
