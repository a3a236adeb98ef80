"""Pause, resume and limit of jobs of several processes that have the turn, or wait for it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch  # noqa: F401  (this test runs on every supported torch)
from elastic_harness import await_step
from gang_harness import (
    Machine,
    Neighbour,
    cases,
    elastic_beside,
    ended,
    kill_group,
    machine_of,
    options_of,
    pids_of,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.one_torch]

STEPS = 120
#: Of a command, the start of its interpreter included: an order is followed at once while its job
#: waits, and within two iterations while it runs.
SOON_S = 6.0


@pytest.fixture(scope="module")
def solo() -> set[str]:
    """The bits of the job without torchtide."""
    with machine_of() as machine:
        ended(machine.start("alone", *options_of(3, STEPS), tide=False))
        return machine.digest("alone")


@pytest.fixture()
def machine() -> Iterator[Machine]:
    with machine_of() as found:
        yield found


@pytest.fixture()
def neighbour(machine: Machine) -> Iterator[Neighbour]:
    with machine.neighbour() as found:
        yield found


def order(machine: Machine, *words: str) -> dict[str, Any]:
    begin = time.monotonic()
    answer = machine.tide(*words)
    assert time.monotonic() - begin < SOON_S, answer
    return answer


@contextlib.contextmanager
def ranks_beside(machine: Machine, neighbour: Neighbour) -> Iterator[Any]:
    """Two ranks past their learning that train until they are told."""
    neighbour.until("step", 10)
    until = machine.folder / "until"
    job = machine.start("j", *options_of(3, STEPS), "--until", str(until))
    try:
        pids_of(job, 12)
        yield job
        until.touch()
        ended(job)
    finally:
        kill_group(job)
    neighbour.ends()
    machine.nothing_is_held()


@pytest.mark.parametrize("waits", cases([False], [True]))
def test_a_gang_of_which_a_rank_is_paused_takes_no_turn(
    machine: Machine, neighbour: Neighbour, solo: set[str], waits: bool
) -> None:
    with ranks_beside(machine, neighbour) as job:
        if waits:
            neighbour.hold()
            machine.parked("j")
        for rank in (1, 0):
            assert order(machine, "pause", f"j[{rank}]")["status"] == "done"
            assert machine.records()[f"j[{rank}]"]["resident"] == 0
            if rank == 1 and waits:
                neighbour.let_go()
            neighbour.trains()
        for rank in (0, 1):
            stands = machine.records()["j[0]"]["iterations"]
            assert order(machine, "resume", f"j[{rank}]")["status"] == "done"
            if rank == 0:
                neighbour.trains()
                assert machine.records()["j[0]"]["iterations"] == stands
        pids_of(job, 40)
        neighbour.trains()
    assert machine.digest("j") == solo


def test_a_limit_holds_at_once_for_ranks_that_run_and_for_those_that_wait(
    machine: Machine, neighbour: Neighbour, solo: set[str]
) -> None:
    with ranks_beside(machine, neighbour):
        for size in (3, 2):
            for rank in (0, 1):
                answer = order(machine, "limit", f"j[{rank}]", f"{size}GiB")
                assert answer["status"] in ("applied", "deferred"), answer
                assert machine.records()[f"j[{rank}]"]["limit"] == size << 30
            if size == 3:
                neighbour.hold()
                machine.parked("j")
        neighbour.let_go()
    assert machine.digest("j") == solo


def steps_done(machine: Machine) -> int:
    return int(machine.tide("explain", "digits")["elastic"]["steps"])


def test_an_elastic_job_that_waits_for_its_turn_obeys(
    machine: Machine, neighbour: Neighbour
) -> None:
    with elastic_beside(machine, neighbour) as job:
        neighbour.hold()
        machine.parked("digits")
        answer = order(machine, "limit", "digits", "4GiB")
        assert (answer["status"], answer["share"]) == ("applied", 2 << 30)
        assert order(machine, "pause", "digits")["status"] == "done"
        assert [machine.records()[f"digits[{rank}]"]["resident"] for rank in (0, 1)] == [0, 0]
        assert order(machine, "pause", "digits")["status"] == "already_paused"
        neighbour.let_go()
        stands = steps_done(machine)
        neighbour.trains()
        assert steps_done(machine) == stands, "it takes no turn"
        assert order(machine, "resume", "digits")["status"] == "done"
        await_step(job, stands + 5)

        assert order(machine, "pause", "digits")["status"] == "done"  # wherever it is
        neighbour.hold()
        stands = steps_done(machine)
        assert order(machine, "resume", "digits")["status"] == "done"
        machine.parked("digits")  # it gave its turn away without a close
        assert order(machine, "pause", "digits")["status"] == "done"
        os.kill(machine.records()["digits[1]"]["pid"], signal.SIGKILL)
        assert order(machine, "resume", "digits")["status"] == "done"
        neighbour.let_go()
        await_step(job, stands + 5)
