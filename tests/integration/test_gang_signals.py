"""Ctrl-C and SIGTERM to a job of several ranks that waits for its turn, or has it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch  # noqa: F401  (this test runs on every supported torch)
from gang_harness import ANSWER_S, Machine, cases, kill_group, machine_of, options_of, pids_of

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.one_torch]

#: Interpreters that import torch take a second or two to end; torchrun ends what is left after 30.
SECONDS_TO_END = 20.0


@pytest.fixture()
def machine() -> Iterator[Machine]:
    with machine_of() as found:
        yield found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("number", "to"),
    cases(
        [(signal.SIGINT, "group"), (signal.SIGTERM, "launcher")],  # a terminal, a scheduler
        [(signal.SIGTERM, "group"), (signal.SIGINT, "rank 0"), (signal.SIGINT, "rank 1")],
    ),
)
def test_a_parked_gang_ends_at_once_and_leaves_nothing(
    machine: Machine, number: int, to: str
) -> None:
    with machine.neighbour() as neighbour:
        neighbour.until("step", 10)
        job = machine.start("j", *options_of(0, 10), "--until", "never")
        try:
            pids = pids_of(job, 12)
            neighbour.hold()
            machine.parked("j")
            begin = time.monotonic()
            if to == "group":
                os.killpg(job.pid, number)
            else:
                os.kill({"launcher": job.pid, "rank 0": pids[0], "rank 1": pids[1]}[to], number)
            _, errors = job.communicate(timeout=ANSWER_S)
            assert job.returncode != 0
            assert time.monotonic() - begin < SECONDS_TO_END, errors
            assert not any(map(alive, pids))
        finally:
            kill_group(job)
        neighbour.let_go()
        (lane,) = machine.tide("policy")["lanes"]
        assert lane["members"] == ["plain"]
        neighbour.ends()
        machine.nothing_is_held()


@pytest.mark.parametrize("number", cases([signal.SIGTERM], [signal.SIGINT]))
def test_a_gang_that_is_ended_in_the_middle_of_its_turn_passes_it_on(
    machine: Machine, number: int
) -> None:
    with machine.neighbour() as neighbour:
        neighbour.until("step", 10)
        job = machine.start("j", *options_of(0, 10), "--until", "never")
        try:
            pids_of(job, 12)
            machine.hold("j")
            (lane,) = machine.tide("policy")["lanes"]
            assert lane["holder"] == "j[0]"
            os.killpg(job.pid, number)
            job.communicate(timeout=ANSWER_S)
            assert job.returncode != 0
        finally:
            kill_group(job)
        neighbour.trains()
        (lane,) = machine.tide("policy")["lanes"]
        assert lane["members"] == ["plain"]
        neighbour.ends()
        machine.nothing_is_held()
