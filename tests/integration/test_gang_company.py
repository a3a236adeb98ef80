"""What gangs and their neighbours do to each other: a death, the pace, the bytes; spawned ranks."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
from collections.abc import Iterator

import pytest
import torch  # noqa: F401  (this test runs on every supported torch)
from elastic_harness import await_size
from gang_harness import (
    LAUNCH,
    SCRIPT,
    Machine,
    cases,
    elastic_beside,
    ended,
    kill_group,
    machine_of,
    options_of,
    pids_of,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.one_torch]


@pytest.fixture()
def machine() -> Iterator[Machine]:
    with machine_of() as found:
        yield found


@pytest.mark.parametrize("rank", cases([0], [1]))
def test_the_death_of_an_elastic_process_changes_no_bits_of_its_job_or_of_its_neighbour(
    machine: Machine, rank: int
) -> None:
    with machine.neighbour() as neighbour, elastic_beside(machine, neighbour) as job:
        neighbour.hold()
        machine.parked("digits")
        os.kill(machine.records()[f"digits[{rank}]"]["pid"], signal.SIGKILL)
        neighbour.let_go()
        await_size(job, 1)
        await_size(job, 2)
        os.kill(machine.tide("explain", "digits")["elastic"]["pids"][rank], signal.SIGKILL)
        await_size(job, 1)
        neighbour.trains()
        neighbour.until("bits", max(neighbour.bits, default=0) + 1)
    with machine.neighbour(tide=False) as alone:
        alone.until("bits", max(neighbour.bits))
        assert neighbour.bits.items() <= alone.bits.items()


def test_ranks_that_were_spawned_take_turns_and_end_with_their_bits(machine: Machine) -> None:
    jobs = {}
    for seed in (0, 1):
        command = ["python", SCRIPT, "--spawn", "--out", str(machine.folder / f"j{seed}")]
        ended(machine.run(f"alone{seed}", [*command, *options_of(seed, 200)], tide=False))
    alone = [machine.digest(f"j{seed}") for seed in (0, 1)]
    for seed in (0, 1):
        command = ["python", SCRIPT, "--spawn", "--out", str(machine.folder / f"j{seed}")]
        (machine.folder / f"j{seed}.meet").unlink(missing_ok=True)
        jobs[seed] = machine.run(f"j{seed}", [*command, *options_of(seed, 200)])
    for job in jobs.values():
        ended(job)
    assert [machine.digest(f"j{seed}") for seed in (0, 1)] == alone
    for rank in machine.said("j0") + machine.said("j1"):
        assert rank["lane_allocations"] > 50
    machine.nothing_is_held()


@pytest.mark.parametrize("lane", cases(["0"], ["-1"]))
def test_a_gang_is_slowed_for_a_guaranteed_job_in_its_lane_or_outside_and_both_go_on(
    machine: Machine, lane: str
) -> None:
    steps = 60
    ended(machine.start("alone", *options_of(2, steps), tide=False))
    with machine.neighbour("--priority", "guaranteed", "--lane", lane) as paper:
        paper.until("step", 200)
        out, until = machine.folder / "sweep", machine.folder / "until"
        words = ("--out", str(out), *options_of(2, steps), "--until", str(until))
        sweep = machine.run("sweep", [*LAUNCH, *words], "--priority", "opportunistic")
        try:
            pids_of(sweep, 12)
            machine.until(lambda found: found["sweep[0]"]["pace"] < 0.9)
            paper.trains()
            stands = machine.records()["sweep[0]"]["iterations"]
            machine.until(lambda found: found["sweep[0]"]["iterations"] > stands + 3)
            paper.trains()
            until.touch()
            paper.ends()
            ended(sweep)
        finally:
            kill_group(sweep)
    assert machine.digest("sweep") == machine.digest("alone")
    machine.nothing_is_held()


def proportional_bytes(pids: list[int]) -> int:
    """Memory of processes but for files, each page that several of them map counted once."""
    found = 0
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        kinds = re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB$", text, re.MULTILINE)
        assert len(kinds) == 2
        found += sum(map(int, kinds)) << 10
    return found


def test_two_gangs_have_one_scratch_for_each_of_their_seats(machine: Machine) -> None:
    batch = ("--batch", "16384", "--until", str(machine.folder / "until"))
    with contextlib.ExitStack() as stack:
        one = machine.start("one", *options_of(0, 10), *batch)
        stack.callback(kill_group, one)
        first = pids_of(one, 12)
        machine.hold("one")
        alone = proportional_bytes(first)
        machine.let_go("one")
        two = machine.start("two", *options_of(1, 10), *batch)
        stack.callback(kill_group, two)
        both = first + pids_of(two, 20)
        machine.hold("one")
        machine.parked("two")
        records = machine.records()
        scratch = sum(records[f"one[{rank}]"]["scratch_peak"] for rank in (0, 1))
        assert scratch > 80 << 20
        together = proportional_bytes(both)
        # What is not scratch is twice there.
        assert together < 2 * alone - 0.8 * scratch, (together, alone, scratch)
        machine.let_go("one")
        (machine.folder / "until").touch()
        for job in (one, two):
            ended(job)
    machine.nothing_is_held()
