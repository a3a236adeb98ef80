"""`tide pause`, `resume`, `limit` and `explain` take an elastic job as one: real processes."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import pytest
from elastic_harness import DEADLINE_S, PACED, await_size, await_step, started, tide, without_daemon

pytest.importorskip("sklearn")


#: Processes that start beside others on two busy cores take long.
PATIENT = ("--timeout", "280")


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> dict[str, str]:
    return without_daemon(tmp_path)


def explained(environment: dict[str, str], job: str) -> dict[str, Any]:
    code, answer = tide(environment, "explain", job)
    assert code == 0
    return answer


@pytest.mark.slow
def test_an_elastic_job_is_paused_limited_and_resumed_as_one(
    tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    alone, moved, pipe = tmp_path / "alone.json", tmp_path / "moved.json", tmp_path / "go"
    os.mkfifo(pipe)
    command = [sys.executable, PACED, "-", "--epochs", "2", "--out", str(alone)]
    subprocess.run(command, env=environment, check=True, timeout=DEADLINE_S, capture_output=True)
    command = [sys.executable, PACED, str(pipe), "0.03", "--epochs", "2", "--out", str(moved)]
    words = ("--processes", "1:3", "--name", "digits", "--limit", "6GiB")
    with started(environment, *words, "--", *command) as job:
        await_step(job, 1)
        go = os.open(pipe, os.O_RDWR)
        assert tide(environment, "resize", "digits", "2", *PATIENT)[0] == 0

        code, answer = tide(environment, "pause", "digits[1]")  # one of them is all of them
        assert (code, answer["status"], answer["job"]) == (0, "done", "digits")
        still = explained(environment, "digits")["elastic"]
        assert [member["paused"] for member in still["members"]] == [True, True]
        assert tide(environment, "pause", "digits")[1]["status"] == "already_paused"
        code, answer = tide(environment, "resize", "digits", "3")
        assert (code, "is paused" in answer["error"]["available"]) == (7, True)

        code, answer = tide(environment, "limit", "digits", "4GiB")  # also while it is paused
        assert (code, answer["previous"], answer["share"]) == (0, 6 << 30, 2 << 30)
        assert explained(environment, "digits")["elastic"]["steps"] == still["steps"]
        os.kill(still["pids"][1], signal.SIGKILL)
        code, answer = tide(environment, "resume", "digits")
        assert (code, answer["status"]) == (0, "done")
        await_step(job, still["steps"] + 2)

        code, answer = tide(environment, "limit", "digits", "3MiB")  # below what anything needs
        assert (code, "cannot run in less" in answer["error"]["available"]) == (6, True)
        assert explained(environment, "digits")["elastic"]["limit"] == 4 << 30
        assert tide(environment, "resize", "digits", "3", *PATIENT)[0] == 0
        await_size(job, 3)
        assert tide(environment, "pause", "digits")[0] == 0  # a joiner obeys as well
        found = explained(environment, "digits")["elastic"]
        assert [member["paused"] for member in found["members"]] == [True] * 3
        assert {m["limit_done"] == found["limit_word"] for m in found["members"]} == {True}
        assert tide(environment, "resume", "digits")[1]["status"] == "done"
        assert tide(environment, "resume", "digits")[1]["status"] == "already_running"
        os.write(go, b"go")
        job.communicate(timeout=DEADLINE_S)
        os.close(go)
        assert job.returncode == 0
    assert json.loads(moved.read_text()) == json.loads(alone.read_text())
