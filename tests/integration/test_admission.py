"""Jobs that do not fit together wait for one another, and lanes are filled by measured sizes."""

import pathlib
import tempfile
from collections.abc import Iterator

import pytest
import torch  # noqa: F401  (this test runs on every supported torch)
from live_machine import DEADLINE_S, Machine

pytestmark = [pytest.mark.integration, pytest.mark.one_torch]


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="tide-admission-") as name:
        yield pathlib.Path(name)


def test_a_job_that_does_not_fit_waits_until_the_other_has_ended(folder: pathlib.Path) -> None:
    # one job is about 340 MiB, nearly all of it interpreter and torch
    machine = Machine(folder, TIDE_CAPACITY="500MiB", TIDE_ADMISSION="queue")
    try:
        first = machine.start("--name", "first", "--", "python", "train.py")
        machine.until(lambda job: int(job["iterations"]) > 8, "first")
        machine.start("--name", "second", "--", "python", "train.py")
        machine.until(lambda job: job["state"] == "queued", "second")
        stands = machine.record("second")["iterations"]
        why = machine.tide("explain", "second")
        assert "waiting to be admitted" in why and "of 500 MiB" in why and "first" in why
        goes_on = machine.record("first")["iterations"]
        machine.until(lambda job: int(job["iterations"]) > goes_on + 8, "first")
        assert machine.record("second")["iterations"] == stands
        first.terminate()
        first.wait(DEADLINE_S)
        machine.until(lambda job: int(job["iterations"]) > stands + 8, "second")
        told = machine.tide("events", "--job", "second", "-n", "0")
        assert "it waits until jobs end" in told and "of 500 MiB" in told
    finally:
        machine.close()


def test_a_paused_job_that_is_queued_stays_paused_and_an_interrupt_ends_it(
    folder: pathlib.Path,
) -> None:
    machine = Machine(folder, TIDE_CAPACITY="500MiB", TIDE_ADMISSION="queue")
    try:
        first = machine.start("--name", "first", "--", "python", "train.py")
        machine.until(lambda job: int(job["iterations"]) > 8, "first")
        second = machine.start("--name", "second", "--", "python", "train.py")
        machine.until(lambda job: job["state"] == "queued", "second")
        machine.tide("pause", "second")
        machine.until(lambda job: job["state"] == "paused", "second")
        first.terminate()
        first.wait(DEADLINE_S)
        machine.tide("resume", "second")
        stands = machine.record("second")["iterations"]
        machine.until(lambda job: int(job["iterations"]) > stands, "second")
        third = machine.start("--name", "third", "--", "python", "train.py")
        machine.until(lambda job: job["state"] == "queued", "third")
        third.terminate()
        assert third.wait(DEADLINE_S) != 0
        assert second.poll() is None
    finally:
        machine.close()


def test_with_two_lanes_each_of_two_jobs_has_its_own_and_a_third_shares(
    folder: pathlib.Path,
) -> None:
    machine = Machine(folder, TIDE_CAPACITY="8GiB", TIDE_LANE_MAX="2")
    names = ("a", "b", "c")
    try:
        for name in names:
            machine.start("--name", name, "--", "python", "train.py")
        for name in names:
            machine.until(lambda job: int(job["iterations"]) > 20, name)
        lanes = sorted(machine.record(name)["lane"] for name in names)
        assert lanes in ([0, 0, 1], [0, 1, 1]), lanes
    finally:
        machine.close()


def test_one_lane_is_the_default_and_a_lane_that_was_asked_for_is_kept(
    folder: pathlib.Path,
) -> None:
    machine = Machine(folder, TIDE_CAPACITY="8GiB")
    try:
        machine.start("--name", "a", "--", "python", "train.py")
        machine.start("--name", "b", "--", "python", "train.py")
        machine.start("--name", "c", "--lane", "3", "--", "python", "train.py")
        for name in ("a", "b", "c"):
            machine.until(lambda job: int(job["iterations"]) > 8, name)
        assert [machine.record(name)["lane"] for name in ("a", "b", "c")] == [0, 0, 3]
    finally:
        machine.close()
