"""Hostile configurations: whatever moves at a boundary, the numbers are those of plain torch."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import checks
import pytest

pytest.importorskip("torch")

STEPS = 10
MODELS = ("cnn", "lstm", "gpt")
CONFIGURATIONS: dict[str, dict[str, str]] = {
    "no lane": {},
    "always spilled": {"TIDE_TEST_ALWAYS_SPILL": "1"},
    "always suspended": {"TIDE_TEST_ALWAYS_SUSPEND": "1"},
    "tiny limit": {"TIDE_LIMIT": "64MiB"},
}
LANE = {"TIDE_LANE": "0", "TIDE_LANE_POLICY": "rr", "TIDE_LANE_QUANTUM_MS": "0"}
Result = dict[str, Any]


def start(
    folder: pathlib.Path, models: str, out: str, *plain: str, **variables: str
) -> subprocess.Popen[str]:
    """Starts a job that waits for a line; its result will lie in `folder / out`."""
    script = str(checks.SCRIPTS / "hostile_job.py")
    with (folder / f"{out}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, script, models, str(STEPS), str(folder / out), *plain],
            env=checks.environment(folder, **variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def finish(folder: pathlib.Path, jobs: dict[str, subprocess.Popen[str]]) -> list[Result]:
    """Lets the jobs begin when all are ready, waits for them and reads their results."""
    for process in jobs.values():
        assert process.stdout is not None
        process.stdout.readline()
    for out, process in jobs.items():
        assert process.stdin is not None
        assert process.poll() is None, (folder / f"{out}.log").read_text()
        process.stdin.write("go\n")
        process.stdin.flush()
    for out, process in jobs.items():
        process.communicate(timeout=checks.DEADLINE_S)
        assert process.returncode == 0, (folder / f"{out}.log").read_text()
    return [json.loads((folder / out).read_text()) for out in jobs]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Results of torch without torchtide."""
    folder = tmp_path_factory.mktemp("plain")
    found = finish(folder, {"plain": start(folder, ",".join(MODELS), "plain", "plain")})[0]
    results: dict[str, Result] = found["results"]
    return results


def assert_same(found: Result, expected: Result) -> None:
    assert found["losses"] == expected["losses"]
    assert found["digests"] == expected["digests"]
    assert found["changed"] == expected["changed"] == 0


@pytest.mark.parametrize("name", CONFIGURATIONS, ids=lambda name: name.replace(" ", "-"))
def test_a_job_alone_computes_what_plain_torch_does(
    name: str, plain: dict[str, Result], tmp_path: pathlib.Path
) -> None:
    variables = {"TIDE_LANE": "-1", **CONFIGURATIONS[name]}
    (found,) = finish(tmp_path, {"job": start(tmp_path, ",".join(MODELS), "job", **variables)})
    for model in MODELS:
        assert_same(found["results"][model], plain[model])
    report = found["report"]
    assert report["allocations"] > 0 and report["iterations"] == STEPS * len(MODELS)
    if name.startswith("always"):
        assert report["demoted_pages_total"] > 0, report


def together(folder: pathlib.Path, **variables: str) -> dict[str, Result]:
    jobs = {model: start(folder, model, model, **LANE, **variables) for model in ("cnn", "gpt")}
    return dict(zip(jobs, finish(folder, jobs), strict=True))


@pytest.mark.parametrize("extra", ["", "TIDE_TEST_ALWAYS_SPILL", "TIDE_TEST_ALWAYS_SUSPEND"])
def test_two_jobs_that_take_turns_at_each_iteration_compute_what_plain_torch_does(
    extra: str, plain: dict[str, Result], tmp_path: pathlib.Path
) -> None:
    for model, found in together(tmp_path, **({extra: "1"} if extra else {})).items():
        assert_same(found["results"][model], plain[model])
        assert found["report"]["allocations"] > 0 and found["report"]["lane_allocations"] > 0


def test_without_privatisation_a_kept_activation_is_corrupted(tmp_path: pathlib.Path) -> None:
    """The control: the comparison above can see what it looks for."""
    results = together(tmp_path, TIDE_TEST_SKIP_PRIVATISE="1")
    assert all(found["report"]["lane_allocations"] > 0 for found in results.values())
    assert sum(found["results"][model]["changed"] for model, found in results.items()) > 0
