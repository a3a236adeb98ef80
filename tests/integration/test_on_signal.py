"""`tide run --on-signal` in real jobs: ranks, elastic jobs, programs that have a say."""

from __future__ import annotations

import os
import pathlib
import signal
import tempfile
from collections.abc import Iterator

import pytest
from deploy_harness import Node, node
from elastic_harness import PACED
from elastic_harness import tide as ask

pytest.importorskip("torch")
pytestmark = [pytest.mark.integration, pytest.mark.slow]

RANKS = """
import os, signal, sys, torch, torch.distributed as dist, torchtide as tide
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
done = 0
tide.on_save(lambda: open(f"saved-{rank}", "w").write(str(done)))
while True:
    optimizer.zero_grad()
    model(torch.randn(8, 64)).pow(2).mean().backward()
    optimizer.step()
    done += 1
    if done % 10 == 0:
        sys.stdout.write(f"rank {rank} step {done} pid {os.getpid()}\\n")
        sys.stdout.flush()
"""

OWN = """
import os, signal, torch, torchtide
signal.signal(signal.SIGUSR1, lambda *a: print("mine", flush=True))
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(20):
    model(torch.randn(8)).sum().backward()
    optimizer.step()
    if step == 10:
        os.kill(os.getpid(), signal.SIGUSR1)
"""

FAILING = """
import os, signal, torch, torchtide as tide
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
@tide.on_save
def save():
    raise OSError("the disk is full")
for step in range(20):
    if step == 10:
        os.kill(os.getpid(), signal.SIGUSR1)
    if step == 15:
        os.kill(os.getpid(), signal.SIGTERM)
    model(torch.randn(8)).sum().backward()
    optimizer.step()
    print("step", step, flush=True)
"""

EARLY = """
import os, signal, sys
os.kill(os.getpid(), signal.SIGUSR1)  # not hooked yet: nothing happens
import torch
print("imported", flush=True)
os.kill(os.getpid(), signal.SIGTERM)  # no iteration has begun: as without torchtide
print("not reached", flush=True)
"""


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Node]:
    name = f"signal-{abs(hash(request.node.name)) % 10**6}"
    with (
        tempfile.TemporaryDirectory(prefix="tide-signal-") as path,
        node(pathlib.Path(path), name) as made,
    ):
        made.environ["TIDE_DAEMON"] = "off"
        yield made


def tide(machine: Node, *words: str) -> list[str]:
    return machine.group.wrap(["tide", "run", *words])


@pytest.mark.parametrize("signalled", ["all", "one"])
def test_ranks_are_paused_and_saved_after_the_same_step(machine: Node, signalled: str) -> None:
    (machine.folder / "ranks.py").write_text(RANKS)
    words = ("--on-signal", "USR1=pause", "--on-signal", "USR2=resume")
    words += ("--on-signal", "TERM=save-and-end")
    launch = ["torchrun", "--standalone", "--nproc-per-node", "2", "ranks.py"]
    job = machine.start(tide(machine, *words, "--", *launch))
    pids = [int(job.until(f"rank {rank} step ").split()[-1]) for rank in (0, 1)]
    chosen = pids if signalled == "all" else pids[1:]
    for pid in chosen:
        os.kill(pid, signal.SIGUSR1)
    job.until("ranks[0] is paused")  # rank 0 speaks for all
    for pid in pids:
        os.kill(pid, signal.SIGUSR2)
    job.until("ranks[0] goes on")
    for _ in range(2):
        job.until("step ")
    for pid in chosen:
        os.kill(pid, signal.SIGTERM)
    code, said = job.rest()
    assert code != 0, said
    steps = [(machine.folder / f"saved-{rank}").read_text() for rank in (0, 1)]
    assert steps[0] == steps[1] and int(steps[0]) >= 10


@pytest.mark.one_torch
def test_an_elastic_job_is_paused_in_all_its_processes(machine: Node) -> None:
    pytest.importorskip("sklearn")
    pipe = machine.folder / "go"
    os.mkfifo(pipe)
    command = ["python", PACED, str(pipe), "0.01", "--epochs", "1"]
    words = ("--processes", "2", "--name", "digits")
    words += ("--on-signal", "USR1=pause", "--on-signal", "USR2=resume")
    job = machine.start(tide(machine, *words, "--", *command))
    job.until("step 2 ")
    machine.signal_all(signal.SIGUSR1)  # the workers too: they leave it to the launcher
    paused = False
    while not paused:
        told = ask(machine.environ, "explain", "digits")[1]
        members = told["elastic"]["members"]
        paused = len(members) == 2 and all(member["paused"] for member in members)
        assert job.process.poll() is None
    machine.signal_all(signal.SIGUSR2)
    go = os.open(pipe, os.O_RDWR)
    os.write(go, b"go")
    code, said = job.rest()
    os.close(go)
    assert code == 0, said
    assert "ended with code" not in said


@pytest.mark.one_torch
def test_a_program_that_handles_the_signal_itself_is_left_alone_and_told(machine: Node) -> None:
    (machine.folder / "own.py").write_text(OWN)
    job = machine.start(tide(machine, "--on-signal", "USR1=pause", "--", "python", "own.py"))
    code, said = job.rest()
    assert code == 0, said
    assert "mine" in said
    assert "the program handles SIGUSR1 itself; it does not pause" in said


def test_a_checkpoint_that_fails_stops_the_job_only_where_it_ends_anyway(machine: Node) -> None:
    (machine.folder / "failing.py").write_text(FAILING)
    words = ("--on-signal", "USR1=save", "--on-signal", "TERM=save-and-end")
    code, said = machine.start(tide(machine, *words, "--", "python", "failing.py")).rest()
    assert code == 1, said
    assert "SIGUSR1: not saved, the job goes on: OSError('the disk is full')" in said
    assert "step 14" in said and "step 15" not in said
    assert "OSError: the disk is full" in said


def test_signals_before_the_first_iteration(machine: Node) -> None:
    (machine.folder / "early.py").write_text(EARLY)
    words = ("--on-signal", "USR1=save-and-end", "--on-signal", "TERM=save-and-end")
    code, said = machine.start(tide(machine, *words, "--", "python", "early.py")).rest()
    assert code == -signal.SIGTERM, said
    assert "imported" in said and "not reached" not in said
